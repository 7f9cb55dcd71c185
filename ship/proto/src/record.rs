//! Follows a WAL stream record by record and checks each.
