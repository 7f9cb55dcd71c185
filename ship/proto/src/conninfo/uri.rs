//! `postgresql://user:password@host:port,host:port/dbname?keyword=value`.
//!
//! PostgreSQL: `conninfo_uri_parse_options`, `conninfo_uri_parse_params`, `conninfo_uri_decode`
//! (src/interfaces/libpq/fe-connect.c).

use alloc::string::String;
use alloc::vec::Vec;

use super::error::ConnInfoError;
use super::options::Options;

/// What follows the scheme, when `text` is a URI.
pub(super) fn strip_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"))
}

/// Parses `rest`, which is `uri` without its scheme.
pub(super) fn parse(uri: &str, rest: &str, options: &mut Options) -> Result<(), ConnInfoError> {
    let rest = parse_credentials(rest, options)?;
    let (hosts, ports, rest) = split_hosts(uri, rest)?;
    for (name, value) in [("host", hosts), ("port", ports)] {
        store_decoded(options, name, &value)?;
    }
    let query = match rest.strip_prefix('/') {
        Some(path) => {
            let (dbname, query) = split_before(path, &['?']);
            // An empty name must not hide PGDATABASE.
            store_decoded(options, "dbname", dbname)?;
            query
        }
        None => rest,
    };
    parse_query(query.strip_prefix('?').unwrap_or_default(), options)
}

fn parse_credentials<'a>(rest: &'a str, options: &mut Options) -> Result<&'a str, ConnInfoError> {
    let (credentials, after) = split_before(rest, &['@', '/']);
    let Some(after) = after.strip_prefix('@') else { return Ok(rest) };
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    store_decoded(options, "user", user)?;
    store_decoded(options, "password", password)?;
    Ok(after)
}

/// The comma-separated hosts and ports, and what follows the last of them.
fn split_hosts<'a>(
    uri: &str,
    mut rest: &'a str,
) -> Result<(String, String, &'a str), ConnInfoError> {
    let (mut hosts, mut ports) = (String::new(), String::new());
    loop {
        let (host, after) = match rest.strip_prefix('[') {
            Some(inner) => split_bracketed(uri, inner)?,
            None => split_before(rest, &[':', '/', '?', ',']),
        };
        hosts.push_str(host);
        rest = after;
        if let Some(after) = rest.strip_prefix(':') {
            let (port, after) = split_before(after, &['/', '?', ',']);
            ports.push_str(port);
            rest = after;
        }
        let Some(after) = rest.strip_prefix(',') else { return Ok((hosts, ports, rest)) };
        rest = after;
        hosts.push(',');
        ports.push(',');
    }
}

fn split_bracketed<'a>(uri: &str, inner: &'a str) -> Result<(&'a str, &'a str), ConnInfoError> {
    let open = || ConnInfoError::UriBracketOpen { uri: uri.into() };
    let (host, after) = inner.split_once(']').ok_or_else(open)?;
    if host.is_empty() {
        return Err(ConnInfoError::UriBracketEmpty { uri: uri.into() });
    }
    match after.chars().next() {
        None | Some(':' | '/' | '?' | ',') => Ok((host, after)),
        Some(character) => Err(ConnInfoError::UriAfterBracket {
            character,
            position: uri.len() - after.len() + 1,
            uri: uri.into(),
        }),
    }
}

fn parse_query(mut rest: &str, options: &mut Options) -> Result<(), ConnInfoError> {
    while !rest.is_empty() {
        let (parameter, after) = rest.split_once('&').unwrap_or((rest, ""));
        rest = after;
        let Some((key, value)) = parameter.split_once('=') else {
            return Err(ConnInfoError::UriMissingSeparator { key: parameter.into() });
        };
        if value.contains('=') {
            return Err(ConnInfoError::UriExtraSeparator { key: key.into() });
        }
        let (key, value) = (decode(key)?, decode(value)?);
        // JDBC's spelling.
        if key == "ssl" && value == "true" {
            options.store("sslmode", "require".into())?;
            continue;
        }
        options.store(&key, value).map_err(|_| ConnInfoError::UriParameter { key })?;
    }
    Ok(())
}

/// Splits before the first of `stops`, or at the end.
fn split_before<'a>(text: &'a str, stops: &[char]) -> (&'a str, &'a str) {
    text.split_at(text.find(stops).unwrap_or(text.len()))
}

fn store_decoded(options: &mut Options, name: &str, value: &str) -> Result<(), ConnInfoError> {
    if value.is_empty() {
        return Ok(());
    }
    options.store(name, decode(value)?)
}

fn decode(text: &str) -> Result<String, ConnInfoError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |rest: &mut core::str::Bytes<'_>| {
        let value = rest.next().and_then(|byte| char::from(byte).to_digit(16));
        value
            .and_then(|value| u8::try_from(value).ok())
            .ok_or_else(|| ConnInfoError::PercentToken { text: text.into() })
    };
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let byte = digit(&mut rest)? << 4 | digit(&mut rest)?;
        if byte == 0 {
            return Err(ConnInfoError::PercentZero { text: text.into() });
        }
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| ConnInfoError::PercentUtf8 { text: text.into() })
}
