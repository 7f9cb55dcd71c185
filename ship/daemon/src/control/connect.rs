//! Connects to the upstream as libpq does: hosts, TLS, authentication.
