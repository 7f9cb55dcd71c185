//! Options of a method.
//!
//! PostgreSQL: `parse_hba_auth_opt` (src/backend/libpq/hba.c).

use alloc::format;
use alloc::string::ToString as _;

use super::fault::Fault;
use super::rule::{ClientCertificate, ClientName, ConnectionType, Method, Rule};

/// Options of methods that are refused, and which these are.
const OF_OTHER_METHODS: [(&str, &[&str]); 5] = [
    ("pam", &["pamservice", "pam_use_hostname"]),
    (
        "ldap",
        &[
            "ldapurl",
            "ldaptls",
            "ldapscheme",
            "ldapserver",
            "ldapport",
            "ldapbinddn",
            "ldapbindpasswd",
            "ldapsearchattribute",
            "ldapsearchfilter",
            "ldapbasedn",
            "ldapprefix",
            "ldapsuffix",
        ],
    ),
    ("gssapi and sspi", &["krb_realm", "include_realm"]),
    ("sspi", &["compat_realm", "upn_username"]),
    ("radius", &["radiusservers", "radiusports", "radiussecrets", "radiusidentifiers"]),
];
const OF_OAUTH: [&str; 4] = ["issuer", "scope", "validator", "delegate_ident_mapping"];

/// Reads `name=value` into the rule.
pub(super) fn parse(option: &str, rule: &mut Rule) -> Result<(), Fault> {
    let Some((name, value)) = option.split_once('=') else {
        return Err(Fault::new(format!(
            "authentication option not in name=value format: {option}"
        )));
    };
    match name {
        "map" => {
            if !matches!(rule.method, Method::Peer | Method::Cert) {
                return Err(misplaced(name, "ident, peer, gssapi, sspi, cert, and oauth"));
            }
            rule.map = Some(value.to_string());
        }
        "clientcert" => {
            of_hostssl(name, rule)?;
            let level = ClientCertificate::from_word(value).ok_or_else(|| invalid(name, value))?;
            if level == ClientCertificate::VerifyCa && rule.method == Method::Cert {
                return Err(Fault::new(
                    "clientcert only accepts \"verify-full\" when using \"cert\" authentication",
                ));
            }
            rule.client_certificate = Some(level);
        }
        "clientname" => {
            of_hostssl(name, rule)?;
            rule.client_name = ClientName::from_word(value).ok_or_else(|| invalid(name, value))?;
        }
        _ => return Err(foreign(name)),
    }
    Ok(())
}

fn foreign(name: &str) -> Fault {
    if OF_OAUTH.contains(&name) {
        return misplaced(name, "oauth");
    }
    match OF_OTHER_METHODS.iter().find(|(_, options)| options.contains(&name)) {
        Some((methods, _)) => misplaced(name, methods),
        None => Fault::new(format!("unrecognized authentication option name: \"{name}\"")),
    }
}

fn misplaced(name: &str, methods: &str) -> Fault {
    Fault::new(format!(
        "authentication option \"{name}\" is only valid for authentication methods {methods}"
    ))
}

fn of_hostssl(name: &str, rule: &Rule) -> Result<(), Fault> {
    if rule.connection_type == ConnectionType::HostSsl {
        return Ok(());
    }
    Err(Fault::new(format!("{name} can only be configured for \"hostssl\" rows")))
}

fn invalid(name: &str, value: &str) -> Fault {
    Fault::new(format!("invalid value for {name}: \"{value}\""))
}
