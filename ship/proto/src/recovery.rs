//! Finds the end of WAL and says what start-up does with what it found.
