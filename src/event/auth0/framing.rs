//! The forms in which log records come together: lines, an array, an object.
