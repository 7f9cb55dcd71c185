//! Names of ciphers, groups and protocol versions, as OpenSSL has them and rustls has not.
//!
//! PostgreSQL's settings are OpenSSL's lists. What rustls has is chosen by them; what it has not is refused by name, and
//! leaving out what it has not is no fault.

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, NamedGroup, ProtocolVersion, SupportedCipherSuite};

/// OpenSSL's name of a suite, its bits, and the words of a cipher list that mean it among others.
const SUITES: [(CipherSuite, &str, i32, &[&str]); 9] = [
    (CipherSuite::TLS13_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", 256, &[]),
    (CipherSuite::TLS13_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", 256, &[]),
    (CipherSuite::TLS13_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", 128, &[]),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        256,
        &["aECDSA", "ECDSA", "AES", "AES256", "AESGCM", "SHA384"],
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        "ECDHE-RSA-AES256-GCM-SHA384",
        256,
        &["aRSA", "RSA", "AES", "AES256", "AESGCM", "SHA384"],
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        256,
        &["aECDSA", "ECDSA", "CHACHA20"],
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        "ECDHE-RSA-CHACHA20-POLY1305",
        256,
        &["aRSA", "RSA", "CHACHA20"],
    ),
    (
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        128,
        &["aECDSA", "ECDSA", "AES", "AES128", "AESGCM", "SHA256"],
    ),
    (
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        "ECDHE-RSA-AES128-GCM-SHA256",
        128,
        &["aRSA", "RSA", "AES", "AES128", "AESGCM", "SHA256"],
    ),
];

/// Words that mean every suite up to TLS 1.2.
const ALL_WORDS: [&str; 9] =
    ["ALL", "DEFAULT", "HIGH", "TLSv1.2", "ECDHE", "EECDH", "kECDHE", "kEECDH", "FIPS"];

/// Words that OpenSSL knows and that mean nothing here: older ciphers. Alone they choose nothing, in a list they do no
/// harm.
const EMPTY_WORDS: [&str; 12] = [
    "MEDIUM",
    "LOW",
    "EXP",
    "3DES",
    "RC4",
    "MD5",
    "PSK",
    "SRP",
    "DSS",
    "aNULL",
    "eNULL",
    "COMPLEMENTOFALL",
];

/// Groups, in the names that OpenSSL and people have for them.
const GROUPS: [(&[&str], NamedGroup); 4] = [
    (&["X25519", "x25519"], NamedGroup::X25519),
    (&["prime256v1", "P-256", "secp256r1"], NamedGroup::secp256r1),
    (&["secp384r1", "P-384"], NamedGroup::secp384r1),
    (&["X25519MLKEM768"], NamedGroup::X25519MLKEM768),
];

/// A word of a list that cannot be followed, and those that could.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Unknown {
    pub(super) word: String,
    pub(super) known: Vec<&'static str>,
}

/// As `pg_stat_ssl` shows a suite: its name, and bits of its key.
pub(super) fn shown(suite: SupportedCipherSuite) -> (&'static str, i32) {
    let suite = suite.suite();
    let known = SUITES.iter().find(|(known, ..)| *known == suite);
    known.map_or(("unknown", 0), |(_, name, bits, _)| (name, *bits))
}

/// As `pg_stat_ssl` shows a version.
pub(super) const fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "TLSv1.2",
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "unknown",
    }
}

fn is_tls13(suite: CipherSuite) -> bool {
    SUITES.iter().any(|(known, _, _, words)| *known == suite && words.is_empty())
}

fn names(tls13: bool) -> Vec<&'static str> {
    let suites = SUITES.iter().filter(|(.., words)| words.is_empty() == tls13);
    suites.map(|(_, name, ..)| *name).collect()
}

/// Words are joined by `+`, and a suite must be meant by all of them.
fn is_meant(words: &str, suite: &(CipherSuite, &str, i32, &[&str])) -> bool {
    let (_, name, _, of_suite) = suite;
    !of_suite.is_empty()
        && words
            .split('+')
            .all(|word| word == *name || of_suite.contains(&word) || ALL_WORDS.contains(&word))
}

/// The suites up to TLS 1.2 that an OpenSSL cipher list chooses, in its order. `@STRENGTH` and the like order nothing
/// here: the suites are in order of strength.
///
/// # Errors
/// When a word asks for a cipher that there is not.
pub(super) fn cipher_list(list: &str) -> Result<Vec<CipherSuite>, Unknown> {
    let mut chosen: Vec<CipherSuite> = Vec::new();
    let mut banned: Vec<CipherSuite> = Vec::new();
    let words = list.split([':', ',', ' ', ';']).filter(|word| !word.is_empty());
    for word in words.filter(|word| !word.starts_with('@')) {
        let (action, words) = match word.split_at(1) {
            (action @ ("!" | "-" | "+"), words) => (action, words),
            _ => ("", word),
        };
        let meant: Vec<CipherSuite> =
            SUITES.iter().filter(|suite| is_meant(words, suite)).map(|suite| suite.0).collect();
        match action {
            "!" => {
                chosen.retain(|suite| !meant.contains(suite));
                banned.extend(meant);
            }
            "-" => chosen.retain(|suite| !meant.contains(suite)),
            "+" => {
                let (moved, stay) = chosen.iter().partition::<Vec<_>, _>(|it| meant.contains(it));
                chosen = [stay, moved].concat();
            }
            _ if meant.is_empty() && !EMPTY_WORDS.contains(&words) => {
                return Err(Unknown { word: word.to_owned(), known: names(false) });
            }
            _ => {
                let new =
                    meant.into_iter().filter(|it| !chosen.contains(it) && !banned.contains(it));
                chosen.extend(new.collect::<Vec<_>>());
            }
        }
    }
    Ok(chosen)
}

/// The suites of TLS 1.3 that a list names; all of them for an empty list.
///
/// # Errors
/// When one is not known.
pub(super) fn tls13_suites(list: &str) -> Result<Vec<CipherSuite>, Unknown> {
    let mut chosen = Vec::new();
    for word in list.split(':').map(str::trim).filter(|word| !word.is_empty()) {
        let known = SUITES.iter().find(|(_, name, _, words)| words.is_empty() && *name == word);
        let Some((suite, ..)) = known else {
            return Err(Unknown { word: word.to_owned(), known: names(true) });
        };
        chosen.push(*suite);
    }
    if chosen.is_empty() {
        chosen = SUITES.iter().filter(|suite| is_tls13(suite.0)).map(|suite| suite.0).collect();
    }
    Ok(chosen)
}

/// The groups that a list names, in its order.
///
/// # Errors
/// When one is not known, or `provider` has it not.
pub(super) fn groups(list: &str, provider: &CryptoProvider) -> Result<Vec<NamedGroup>, Unknown> {
    let is_here = |group: NamedGroup| provider.kx_groups.iter().any(|known| known.name() == group);
    let here = GROUPS.iter().filter(|(_, group)| is_here(*group));
    let known = || here.clone().map(|(names, _)| names[0]).collect();
    let words = list.split([':', ',']).map(str::trim).filter(|word| !word.is_empty());
    words
        .map(|word| {
            let found = here.clone().find(|(names, _)| names.contains(&word));
            found
                .map(|(_, group)| *group)
                .ok_or_else(|| Unknown { word: word.to_owned(), known: known() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(list: &str) -> Result<Vec<&'static str>, String> {
        let suites = cipher_list(list).map_err(|unknown| unknown.word)?;
        let name = |suite| SUITES.iter().find(|it| it.0 == suite).map(|it| it.1).unwrap();
        Ok(suites.into_iter().map(name).collect())
    }

    #[test]
    fn postgresqls_default_chooses_all_there_are() {
        assert_eq!(list("HIGH:MEDIUM:+3DES:!aNULL").unwrap(), names(false));
        assert_eq!(list("DEFAULT").unwrap().len(), 6);
        assert_eq!(list("HIGH:!aNULL:!MD5@STRENGTH").unwrap().len(), 6);
    }

    #[test]
    fn a_list_chooses_bans_and_orders() {
        assert_eq!(
            list("ECDHE+CHACHA20:EECDH+AESGCM:!aECDSA:!AES128").unwrap(),
            ["ECDHE-RSA-CHACHA20-POLY1305", "ECDHE-RSA-AES256-GCM-SHA384"]
        );
        assert_eq!(list("!AES:ALL").unwrap().len(), 2);
        assert_eq!(
            list("AES128:-aRSA:aRSA+AES128:+aECDSA").unwrap().last().copied(),
            Some("ECDHE-ECDSA-AES128-GCM-SHA256")
        );
        assert!(list("3DES").unwrap().is_empty());
    }

    #[test]
    fn what_is_not_here_is_named() {
        assert_eq!(list("HIGH:AES256-SHA"), Err("AES256-SHA".to_owned()));
        assert_eq!(
            tls13_suites("TLS_AES_128_CCM_SHA256").unwrap_err().word,
            "TLS_AES_128_CCM_SHA256"
        );
        assert_eq!(tls13_suites("").unwrap().len(), 3);
        assert_eq!(
            tls13_suites("TLS_AES_128_GCM_SHA256").unwrap(),
            [CipherSuite::TLS13_AES_128_GCM_SHA256]
        );
        let provider = super::super::provider();
        assert_eq!(
            groups("X25519:prime256v1", &provider).unwrap(),
            [NamedGroup::X25519, NamedGroup::secp256r1]
        );
        let unknown = groups("P-384:brainpoolP256r1", &provider).unwrap_err();
        assert_eq!(unknown.word, "brainpoolP256r1");
        assert!(unknown.known.contains(&"prime256v1"));
    }
}
