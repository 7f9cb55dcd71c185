//! Which rule is for a connection: the first that matches.
//!
//! A rule with the name of a host matches when the client's address has that name and the name has that address. Both
//! are asked for once, and only when such a rule is for the database and the user; PostgreSQL asks before it looks at
//! them, which is the same verdict.
//!
//! PostgreSQL: `check_hba`, `check_hostname` (src/backend/libpq/hba.c).

use alloc::borrow::ToOwned as _;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::net::IpAddr;

use super::address::{Addresses, Interface, is_in_range, is_named};
use super::rule::{ConnectionType, Rule};
use super::rules::Rules;
use super::{Connection, Membership, Transport};

/// A search for the rule that is for a connection.
pub struct Search<'a> {
    rules: &'a [Arc<Rule>],
    connection: Connection<'a>,
    members: &'a dyn Membership,
    interfaces: &'a [Interface],
    host: HostName,
}

/// What a search needs, or has found.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// The rule that decides; `None` is that none is for the connection.
    Decided(Option<&'a Arc<Rule>>),
    /// [`Search::handle_names`] is to be told the name of this address.
    Reverse(IpAddr),
    /// [`Search::handle_addresses`] is to be told the addresses of this name.
    Forward(String),
}

/// What is known of the name of the client's host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HostName {
    /// Nobody has asked.
    NotAsked,
    /// Its address has no name, for this reason.
    Nameless(String),
    /// This is its name; nobody has asked for that name's addresses.
    Unconfirmed(String),
    /// This is its name, which has its address.
    Confirmed(String),
    /// This is its name, which has other addresses only.
    Contradicted(String),
    /// This is its name, whose addresses nobody knows, for this reason.
    Untranslated(String, String),
}

enum Answer {
    Matches,
    Differs,
    /// Not before this is known.
    Needs(Need),
}

enum Need {
    Reverse(IpAddr),
    Forward(String),
}

impl<'a> Search<'a> {
    /// A search through `rules`; `interfaces` are this machine's, where [`Rules::need_interfaces`].
    #[must_use]
    pub fn new(
        rules: &'a Rules,
        connection: Connection<'a>,
        members: &'a dyn Membership,
        interfaces: &'a [Interface],
    ) -> Self {
        // What comes by a socket for both versions is an address of version 4 all the same.
        let address = connection.address.map(|address| address.to_canonical());
        let connection = Connection { address, ..connection };
        let host = HostName::NotAsked;
        Self { rules: rules.as_slice(), connection, members, interfaces, host }
    }

    /// Goes on until something is needed or the rule is found.
    pub fn poll(&mut self) -> Step<'a> {
        while let Some((rule, rest)) = self.rules.split_first() {
            match self.matches(rule) {
                Answer::Matches => return Step::Decided(Some(rule)),
                Answer::Differs => self.rules = rest,
                Answer::Needs(Need::Reverse(address)) => return Step::Reverse(address),
                Answer::Needs(Need::Forward(name)) => return Step::Forward(name),
            }
        }
        Step::Decided(None)
    }

    /// Takes the name of the client's address, or why there is none.
    pub fn handle_names(&mut self, name: Result<String, String>) {
        if self.host == HostName::NotAsked {
            self.host = match name {
                Ok(name) => HostName::Unconfirmed(name),
                Err(reason) => HostName::Nameless(reason),
            };
        }
    }

    /// Takes the addresses of the client's name, or why they are not known.
    pub fn handle_addresses(&mut self, addresses: Result<&[IpAddr], String>) {
        let HostName::Unconfirmed(name) = &mut self.host else { return };
        let name = core::mem::take(name);
        self.host = match addresses {
            Ok(addresses) if addresses.iter().any(|it| Some(*it) == self.connection.address) => {
                HostName::Confirmed(name)
            }
            Ok(_) => HostName::Contradicted(name),
            Err(reason) => HostName::Untranslated(name, reason),
        };
    }

    /// What is known of the client's name, for the log.
    #[must_use]
    pub const fn host_name(&self) -> &HostName {
        &self.host
    }

    fn matches(&self, rule: &Rule) -> Answer {
        let (connection, members) = (&self.connection, self.members);
        let is_for = suits(rule.connection_type, connection.transport)
            && rule.databases.iter().any(|name| name.matches_database(connection, members))
            && rule.users.iter().any(|name| name.matches_role(connection.user, members));
        let Some(addresses) = rule.addresses.as_ref().filter(|_| is_for) else {
            return if is_for { Answer::Matches } else { Answer::Differs };
        };
        let Some(client) = connection.address else { return Answer::Differs };
        let interfaces = self.interfaces.iter();
        let matches = match addresses {
            Addresses::All => true,
            Addresses::SameHost => interfaces.into_iter().any(|it| it.address == client),
            Addresses::SameNet => {
                interfaces.into_iter().any(|it| is_in_range(client, it.address, it.netmask))
            }
            Addresses::Range { address, mask } => is_in_range(client, *address, *mask),
            Addresses::Host(pattern) => match &self.host {
                HostName::NotAsked => return Answer::Needs(Need::Reverse(client)),
                HostName::Unconfirmed(name) if is_named(pattern, name) => {
                    return Answer::Needs(Need::Forward(name.to_owned()));
                }
                HostName::Confirmed(name) => is_named(pattern, name),
                HostName::Unconfirmed(_)
                | HostName::Nameless(_)
                | HostName::Contradicted(_)
                | HostName::Untranslated(..) => false,
            },
        };
        if matches { Answer::Matches } else { Answer::Differs }
    }
}

/// Whether a rule for that type is for connections that come so.
fn suits(connection_type: ConnectionType, transport: Transport) -> bool {
    match (connection_type, transport) {
        (ConnectionType::Local, Transport::Local) => true,
        (ConnectionType::Local, _) | (_, Transport::Local) => false,
        (ConnectionType::HostSsl, _) => matches!(transport, Transport::Tls { .. }),
        (ConnectionType::HostNoSsl, _) => transport == Transport::Plain,
        (ConnectionType::HostGssEnc, _) => false,
        (ConnectionType::Host | ConnectionType::HostNoGssEnc, _) => true,
    }
}

impl fmt::Debug for Search<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connection, host, .. } = self;
        f.debug_struct("Search").field("connection", connection).field("host", host).finish()
    }
}

/// The detail for the log, where nothing else is for a connection. PostgreSQL: `HOSTNAME_LOOKUP_DETAIL`.
impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resolved = |f: &mut fmt::Formatter<'_>, name: &str, forward: &str| {
            write!(f, "Client IP address resolved to \"{name}\", forward lookup {forward}.")
        };
        match self {
            Self::NotAsked => Ok(()),
            Self::Nameless(reason) => {
                write!(f, "Could not resolve client IP address to a host name: {reason}.")
            }
            Self::Unconfirmed(name) => resolved(f, name, "not checked"),
            Self::Confirmed(name) => resolved(f, name, "matches"),
            Self::Contradicted(name) => resolved(f, name, "does not match"),
            Self::Untranslated(name, reason) => {
                write!(
                    f,
                    "Could not translate client host name \"{name}\" to IP address: {reason}."
                )
            }
        }
    }
}
