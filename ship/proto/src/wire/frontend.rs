//! Messages a frontend sends after start-up.
