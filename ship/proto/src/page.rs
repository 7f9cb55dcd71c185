//! WAL page headers, one WAL version per PostgreSQL major.
