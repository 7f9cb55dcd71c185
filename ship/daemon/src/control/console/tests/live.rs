//! Against a real PostgreSQL 15 and a real psql.
