//! Settings under their PostgreSQL names, parsed into types that cannot be wrong.
