//! The files of a new data directory.
//!
//! PostgreSQL: `setup_config` (src/bin/initdb/initdb.c), src/backend/libpq/pg_hba.conf.sample, pg_ident.conf.sample.

use alloc::borrow::ToOwned as _;
use alloc::string::String;

use super::rule::Method;

const HBA: &str = include_str!("pg_hba.conf.sample");
const IDENT: &str = include_str!("pg_ident.conf.sample");

/// PostgreSQL: `AUTHTRUST_WARNING`.
const TRUST_WARNING: &str = "\
# CAUTION: Configuring the system for local \"trust\" authentication
# allows any local user to connect as any PostgreSQL user, including
# the database superuser.  If you do not trust all your local users,
# use another authentication method.
";

/// pg_hba.conf, with these methods for Unix sockets and for the loopback addresses, and no rule for anybody else.
#[must_use]
pub fn initial_file(local_method: Method, host_method: Method) -> String {
    let trusts = local_method == Method::Trust || host_method == Method::Trust;
    HBA.replace("@authcomment@\n", if trusts { TRUST_WARNING } else { "" })
        .replace("@authmethodlocal@", local_method.as_str())
        .replace("@authmethodhost@", host_method.as_str())
}

/// pg_ident.conf, which maps nothing.
#[must_use]
pub fn initial_ident_file() -> String {
    IDENT.to_owned()
}
