//! Who may come in, and how they must show who they are: pg_hba.conf and pg_ident.conf, with PostgreSQL 18's grammar.
//!
//! Text goes in, rules come out ([`Rules`], [`Maps`]), and faults in PostgreSQL's words. A [`Search`] finds the first rule
//! that matches a connection; it asks for names and addresses of hosts where a rule needs them.
//!
//! | module | what it is for |
//! |---|---|
//! | `token`, `lines` | words, lines and included files, which both files share |
//! | `rule`, `options`, `address` | a line of pg_hba.conf |
//! | `name`, `pattern` | what a database, a user or a role may be called; regular expressions |
//! | `rules`, `search` | the rules in force, and which of them matches |
//! | `maps` | pg_ident.conf |
//! | `initial` | the files of a new data directory |
//!
//! Not here: reading files, resolving names of hosts (the daemon's `net::access`), what a method does, roles themselves.
//!
//! PostgreSQL: src/backend/libpq/hba.c.

mod address;
mod fault;
mod initial;
mod lines;
mod maps;
mod name;
mod options;
mod pattern;
mod rule;
mod rules;
mod search;
#[cfg(test)]
mod tests;
mod token;

use alloc::string::String;
use alloc::vec::Vec;
use core::net::IpAddr;

pub use self::address::{Addresses, Interface};
pub use self::fault::Remark;
pub use self::initial::{initial_file, initial_ident_file};
pub use self::maps::{MapEntry, MapRefusal, Maps};
pub use self::name::Name;
pub use self::rule::{ClientCertificate, ClientName, ConnectionType, Method, Rule};
pub use self::rules::{Row, Rules};
pub use self::search::{HostName, Search, Step};

/// How a connection came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// By Unix socket.
    Local,
    /// Over TCP as it is.
    Plain,
    /// Over TLS.
    Tls {
        /// Whether the client has shown a certificate that was verified.
        client_certificate: bool,
    },
}

/// A connection, as far as rules look at it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection<'a> {
    /// How it came.
    pub transport: Transport,
    /// Where it comes from; none by Unix socket.
    pub address: Option<IpAddr>,
    /// The role that it asks for, which need not exist.
    pub user: &'a str,
    /// The database that it asks for; empty for a physical walsender.
    pub database: &'a str,
    /// Whether it is to be a physical walsender, which is connected to no database.
    pub replication: bool,
}

/// Whose member a role is.
pub trait Membership {
    /// Whether there is a role of that name.
    fn role_exists(&self, role: &str) -> bool;

    /// Whether `user` is a member of `role`, directly or not; a role is a member of itself. A superuser is a member of
    /// nothing else because of that.
    ///
    /// PostgreSQL: `is_member_of_role_nosuper`.
    fn is_member(&self, user: &str, role: &str) -> bool;
}

/// Where files come from.
pub trait Files {
    /// The text of the file at an absolute path.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read(&self, path: &str) -> Result<String, Unreadable>;

    /// The names of the files, other than directories, in the directory at an absolute path, in any order.
    ///
    /// # Errors
    /// When it cannot be read.
    fn list(&self, path: &str) -> Result<Vec<String>, Unreadable>;
}

/// Why a file cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// Whether there is none.
    pub is_missing: bool,
    /// The system's words for it.
    pub reason: String,
}
