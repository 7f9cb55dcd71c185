//! Log lines that a PostgreSQL DBA can read.
