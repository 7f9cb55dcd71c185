//! libpq connection strings and URIs.
