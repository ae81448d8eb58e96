//! Session lifetime: limits, activity, and what clients see of them.

mod model;
