//! A line of pg_hba.conf.
//!
//! PostgreSQL: `parse_hba_line` (src/backend/libpq/hba.c).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::address::Addresses;
use super::fault::Fault;
use super::lines::Line;
use super::name::Name;
use super::options;
use super::token::Token;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// As it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            pub(super) fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

words! {
    /// Which connections a rule is for.
    ConnectionType {
        /// By Unix socket.
        Local = "local",
        /// Over TCP, encrypted or not.
        Host = "host",
        /// Over TLS.
        HostSsl = "hostssl",
        /// Over TCP without TLS.
        HostNoSsl = "hostnossl",
        /// Encrypted by GSSAPI, which none is.
        HostGssEnc = "hostgssenc",
        /// Over TCP and not encrypted by GSSAPI.
        HostNoGssEnc = "hostnogssenc",
    }
}

words! {
    /// How who comes must show who it is.
    Method {
        /// Not at all.
        Trust = "trust",
        /// It may not come in.
        Reject = "reject",
        /// By the password as it is.
        Password = "password",
        /// By a digest of the password, or as with `scram-sha-256` where the secret is of that kind.
        Md5 = "md5",
        /// By SCRAM-SHA-256.
        ScramSha256 = "scram-sha-256",
        /// By a client certificate.
        Cert = "cert",
        /// By the user that the kernel says it is.
        Peer = "peer",
    }
}

words! {
    /// What a client certificate must be good for.
    ClientCertificate {
        /// It is from an authority that is trusted.
        VerifyCa = "verify-ca",
        /// It also carries the name of the user.
        VerifyFull = "verify-full",
    }
}

words! {
    /// Which name of a client certificate is the user's.
    ClientName {
        /// The common name.
        Cn = "CN",
        /// The whole distinguished name.
        Dn = "DN",
    }
}

/// Methods of PostgreSQL that walhub has not.
const REFUSED: [&str; 8] = ["ldap", "radius", "pam", "gss", "sspi", "ident", "oauth", "bsd"];

/// A rule. PostgreSQL: `HbaLine`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The file that it is in.
    pub file: String,
    /// The line that it begins in, counted from one.
    pub line: u32,
    /// Its text.
    pub raw: String,
    /// The connections that it is for.
    pub connection_type: ConnectionType,
    /// The databases.
    pub databases: Vec<Name>,
    /// The users.
    pub users: Vec<Name>,
    /// The addresses; none where connections have none.
    pub addresses: Option<Addresses>,
    /// What it says.
    pub method: Method,
    /// The map between names of the system and roles.
    pub map: Option<String>,
    /// Whether there must be a client certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// Which of its names counts.
    pub client_name: ClientName,
}

impl Rule {
    /// Its options as `pg_hba_file_rules` shows them. PostgreSQL: `get_hba_options`.
    #[must_use]
    pub fn options(&self) -> Vec<String> {
        let map = self.map.as_ref().map(|map| format!("map={map}"));
        let certificate = self.client_certificate.map(|it| format!("clientcert={}", it.as_str()));
        map.into_iter().chain(certificate).collect()
    }
}

/// Which connections there are at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Possible {
    pub(super) tls: bool,
}

/// Reads a line without fault; a rule that can match nothing comes with what is to be said about that.
pub(super) fn parse(line: &Line, possible: Possible) -> Result<(Rule, Option<Fault>), Fault> {
    let mut fields = line.fields.iter();
    let missing = |what| move || Fault::new(format!("end-of-line before {what}"));
    let field = fields.next().ok_or_else(missing("connection type"))?;
    let word = only(field, "connection type", "Specify exactly one connection type per line.")?;
    let connection_type = ConnectionType::from_word(&word.text)
        .ok_or_else(|| Fault::new(format!("invalid connection type \"{}\"", word.text)))?;
    let field = fields.next().ok_or_else(missing("database specification"))?;
    let databases = names(field)?;
    let field = fields.next().ok_or_else(missing("role specification"))?;
    let users = names(field)?;
    let addresses = if connection_type == ConnectionType::Local {
        None
    } else {
        let field = fields.next().ok_or_else(missing("IP address specification"))?;
        let word = only(field, "host address", "Specify one address range per line.")?;
        Some(Addresses::parse(word, || fields.next())?)
    };
    let field = fields.next().ok_or_else(missing("authentication method"))?;
    let hint = "Specify exactly one authentication type per line.";
    let word = only(field, "authentication type", hint)?;
    let method = parse_method(&word.text, connection_type)?;
    let mut rule = Rule {
        file: line.file.clone(),
        line: line.number,
        raw: line.raw.clone(),
        connection_type,
        databases,
        users,
        addresses,
        method,
        map: None,
        client_certificate: None,
        client_name: ClientName::Cn,
    };
    for option in fields.flatten() {
        options::parse(&option.text, &mut rule)?;
    }
    if method == Method::Cert {
        rule.client_certificate = Some(ClientCertificate::VerifyFull);
    }
    Ok((rule, never_matches(connection_type, possible)))
}

/// The word of a field that has but one.
fn only<'a>(field: &'a [Token], what: &str, hint: &'static str) -> Result<&'a Token, Fault> {
    match field {
        [word] => Ok(word),
        _ => Err(Fault::new(format!("multiple values specified for {what}")).hint(hint)),
    }
}

fn names(field: &[Token]) -> Result<Vec<Name>, Fault> {
    field.iter().cloned().map(Name::parse).collect()
}

fn parse_method(word: &str, connection_type: ConnectionType) -> Result<Method, Fault> {
    let is_local = connection_type == ConnectionType::Local;
    let method = match Method::from_word(word) {
        Some(method) => method,
        // What peer was called once.
        None if is_local && word == "ident" => Method::Peer,
        None if REFUSED.contains(&word) => {
            return Err(Fault::new(format!(
                "invalid authentication method \"{word}\": not supported by this build"
            )));
        }
        None => return Err(Fault::new(format!("invalid authentication method \"{word}\""))),
    };
    match method {
        Method::Peer if !is_local => {
            Err(Fault::new("peer authentication is only supported on local sockets"))
        }
        Method::Cert if connection_type != ConnectionType::HostSsl => {
            Err(Fault::new("cert authentication is only supported on hostssl connections"))
        }
        _ => Ok(method),
    }
}

/// Why a rule can match no connection of this server.
fn never_matches(connection_type: ConnectionType, possible: Possible) -> Option<Fault> {
    match connection_type {
        ConnectionType::HostSsl if !possible.tls => Some(
            Fault::new("hostssl record cannot match because SSL is disabled")
                .hint("Set \"ssl = on\" in walhub.toml."),
        ),
        ConnectionType::HostGssEnc => Some(Fault::new(
            "hostgssenc record cannot match because GSSAPI is not supported by this build",
        )),
        _ => None,
    }
}
