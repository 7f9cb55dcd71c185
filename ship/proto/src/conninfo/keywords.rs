//! Every connection keyword that libpq 13 to 18 knows.
//!
//! PostgreSQL: `PQconninfoOptions` (src/interfaces/libpq/fe-connect.c).

/// What a keyword means here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// walhub does what libpq does.
    Honoured,
    /// Recognised, and without a meaning on a replication connection of walhub.
    Ignored,
    /// Recognised; giving it a value is an error, because ignoring it would betray a wish.
    Refused,
}

/// One keyword, and where its value comes from when the string does not give one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Keyword {
    /// Name of the keyword.
    pub name: &'static str,
    /// The environment variable that stands in for it.
    pub variable: Option<&'static str>,
    /// The value that it has when nothing gives one.
    pub default: Option<&'static str>,
    /// Whether the value is hidden in views and logs.
    pub secret: bool,
    /// What it means here.
    pub usage: Use,
}

const fn keyword(
    name: &'static str,
    variable: Option<&'static str>,
    default: Option<&'static str>,
    usage: Use,
) -> Keyword {
    Keyword { name, variable, default, secret: false, usage }
}

const fn secret(name: &'static str, variable: Option<&'static str>, usage: Use) -> Keyword {
    Keyword { name, variable, default: None, secret: true, usage }
}

/// The keywords, in the order in which `pg_stat_wal_receiver.conninfo` shows them.
#[rustfmt::skip]
pub(super) static KEYWORDS: &[Keyword] = &[
    keyword("service", Some("PGSERVICE"), None, Use::Honoured),
    keyword("servicefile", Some("PGSERVICEFILE"), None, Use::Honoured),
    keyword("user", Some("PGUSER"), None, Use::Honoured),
    secret("password", Some("PGPASSWORD"), Use::Honoured),
    keyword("passfile", Some("PGPASSFILE"), None, Use::Honoured),
    keyword("channel_binding", Some("PGCHANNELBINDING"), Some("prefer"), Use::Honoured),
    keyword("connect_timeout", Some("PGCONNECT_TIMEOUT"), None, Use::Honoured),
    keyword("dbname", Some("PGDATABASE"), None, Use::Ignored),
    keyword("host", Some("PGHOST"), None, Use::Honoured),
    keyword("hostaddr", Some("PGHOSTADDR"), None, Use::Honoured),
    keyword("port", Some("PGPORT"), Some("5432"), Use::Honoured),
    keyword("client_encoding", Some("PGCLIENTENCODING"), None, Use::Honoured),
    keyword("options", Some("PGOPTIONS"), None, Use::Honoured),
    keyword("application_name", Some("PGAPPNAME"), None, Use::Honoured),
    keyword("fallback_application_name", None, None, Use::Honoured),
    keyword("keepalives", None, None, Use::Honoured),
    keyword("keepalives_idle", None, None, Use::Honoured),
    keyword("keepalives_interval", None, None, Use::Honoured),
    keyword("keepalives_count", None, None, Use::Honoured),
    keyword("tcp_user_timeout", None, None, Use::Honoured),
    keyword("sslmode", Some("PGSSLMODE"), Some("prefer"), Use::Honoured),
    keyword("sslnegotiation", Some("PGSSLNEGOTIATION"), Some("postgres"), Use::Honoured),
    keyword("sslcompression", Some("PGSSLCOMPRESSION"), Some("0"), Use::Ignored),
    keyword("sslcert", Some("PGSSLCERT"), None, Use::Honoured),
    keyword("sslkey", Some("PGSSLKEY"), None, Use::Honoured),
    keyword("sslcertmode", Some("PGSSLCERTMODE"), Some("allow"), Use::Honoured),
    secret("sslpassword", None, Use::Refused),
    keyword("sslrootcert", Some("PGSSLROOTCERT"), None, Use::Honoured),
    keyword("sslcrl", Some("PGSSLCRL"), None, Use::Honoured),
    keyword("sslcrldir", Some("PGSSLCRLDIR"), None, Use::Honoured),
    keyword("sslsni", Some("PGSSLSNI"), Some("1"), Use::Honoured),
    keyword("sslkeylogfile", None, None, Use::Refused),
    keyword("requirepeer", Some("PGREQUIREPEER"), None, Use::Honoured),
    keyword("require_auth", Some("PGREQUIREAUTH"), None, Use::Honoured),
    keyword("min_protocol_version", Some("PGMINPROTOCOLVERSION"), None, Use::Honoured),
    keyword("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), None, Use::Honoured),
    keyword("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Some("TLSv1.2"), Use::Honoured),
    keyword("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), None, Use::Honoured),
    keyword("gssencmode", Some("PGGSSENCMODE"), Some("prefer"), Use::Honoured),
    keyword("krbsrvname", Some("PGKRBSRVNAME"), None, Use::Ignored),
    keyword("gsslib", Some("PGGSSLIB"), None, Use::Ignored),
    keyword("gssdelegation", Some("PGGSSDELEGATION"), None, Use::Ignored),
    keyword("replication", None, None, Use::Ignored),
    keyword("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Some("any"), Use::Honoured),
    keyword("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Some("disable"), Use::Honoured),
    secret("scram_client_key", None, Use::Refused),
    secret("scram_server_key", None, Use::Refused),
    keyword("oauth_issuer", None, None, Use::Ignored),
    keyword("oauth_client_id", None, None, Use::Ignored),
    secret("oauth_client_secret", None, Use::Ignored),
    keyword("oauth_scope", None, None, Use::Ignored),
    // Gone since PostgreSQL 14, and without a meaning long before.
    keyword("authtype", None, None, Use::Ignored),
    keyword("tty", None, None, Use::Ignored),
];

/// The keyword called `name`.
#[must_use]
pub(super) fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}
