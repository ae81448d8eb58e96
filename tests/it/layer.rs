//! The Layer
