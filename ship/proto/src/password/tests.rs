use std::string::ToString;
use std::vec::Vec;

use super::*;

/// Made by `secrets.sh` with a real server: role, password in hexadecimal, secret.
const SECRETS: &str = include_str!("secrets.tsv");

fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks(2).map(|pair| core::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

#[test]
fn secrets_of_postgresql_are_read_verified_and_made_again() {
    let mut kinds = [0, 0];
    for line in SECRETS.lines() {
        let [role, password, text] = line.split('\t').collect::<Vec<_>>().try_into().unwrap();
        let password = unhex(password);
        let secret = Secret::parse(text);
        assert!(secret.verify(role, &password), "{line}");
        assert!(!secret.verify(role, &[&password[..], b"!"].concat()), "{line}");
        match secret {
            Secret::Md5(_) => {
                kinds[0] += 1;
                assert_eq!(*Md5Secret::build(role, &password).text(), text);
            }
            Secret::ScramSha256(secret) => {
                kinds[1] += 1;
                let again = ScramSecret::build(&password, &secret.salt, secret.iterations);
                assert_eq!(*again.text(), text);
            }
            Secret::Plain(_) => panic!("{line} is no secret"),
        }
    }
    assert!(kinds[0] >= 5 && kinds[1] >= 50, "{kinds:?}");
}

#[test]
fn what_is_no_secret_is_a_password() {
    let scram = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                 wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    let is_plain = |text: &str| matches!(Secret::parse(text), Secret::Plain(_));
    assert!(matches!(Secret::parse(scram), Secret::ScramSha256(_)));
    assert!(matches!(Secret::parse(&scram.replace("4096", "1")), Secret::ScramSha256(_)));
    assert!(matches!(Secret::parse(&scram.replace("4096", "2147483647")), Secret::ScramSha256(_)));
    for (what, with) in [
        ("SCRAM-SHA-256", "SCRAM-SHA-1"),
        ("4096", "0"),
        ("4096", "-1"),
        ("4096", "2147483648"),
        ("4096", "99999999999"),
        ("4096", "4096x"),
        ("4096", ""),
        (":W22ZaJ0SNY7soEsUEjb6gQ==", ""),
        ("W22ZaJ0SNY7soEsUEjb6gQ==", ""),
        ("W22ZaJ0SNY7soEsUEjb6gQ==", "W22ZaJ0SNY7soEsUEjb6gQ"),
        ("W22ZaJ0SNY7soEsUEjb6gQ==", "W22 ZaJ0SNY7soEsUEjb6gQ=="),
        ("WG5d", ""),
        ("wfPL", "wfPLwfPL"),
        ("dU=", "dU= "),
    ] {
        assert!(is_plain(&scram.replacen(what, with, 1)), "{what} replaced by {with:?}");
    }
    for cut in 0..scram.len() {
        assert!(is_plain(&scram[..cut]), "{}", &scram[..cut]);
    }
    let md5 = "md5a6343a68d964ca596d9752250d54bb8a";
    assert!(matches!(Secret::parse(md5), Secret::Md5(_)));
    for text in [&md5[..34], &md5.replace('a', "A"), &[md5, "0"].concat(), "", "md5", "\u{e9}"] {
        assert!(is_plain(text), "{text}");
    }
    assert!(!Secret::parse("pencil").verify("user", b"pencil"));
}

#[test]
fn bits_that_mean_nothing_are_not_looked_at() {
    // The last character has two bits too many. PostgreSQL does not look either.
    assert_eq!(decode_base64(b"AAB="), decode_base64(b"AAA="));
}

#[test]
fn a_response_is_of_its_salt() {
    let secret = Md5Secret::build("user", b"pencil");
    let hash = secret.text();
    let response = Md5Secret::build("\x01\x02\x03\x04", hash.trim_start_matches("md5").as_bytes());
    let response = response.text();
    assert!(secret.verify_response([1, 2, 3, 4], response.as_bytes()));
    assert!(!secret.verify_response([1, 2, 3, 5], response.as_bytes()));
    for other in [&response[3..], &response[..34], "", hash.as_str()] {
        assert!(!secret.verify_response([1, 2, 3, 4], other.as_bytes()), "{other}");
    }
}

#[test]
fn what_is_a_secret_already_is_kept() {
    let salt = [7; SCRAM_SALT_LEN];
    let scram = Encryption::ScramSha256 { iterations: NonZeroU32::new(2).unwrap() };
    let secret = encrypt(scram, "user", "pencil", &salt);
    assert!(secret.starts_with("SCRAM-SHA-256$2:BwcHBwcHBwcHBwcHBwcHBw==$"), "{}", *secret);
    for encryption in [scram, Encryption::Md5] {
        assert_eq!(*encrypt(encryption, "other", &secret, &[8; SCRAM_SALT_LEN]), *secret);
    }
    let md5 = encrypt(Encryption::Md5, "user", "pencil", &salt);
    assert!(Secret::parse(&md5).verify("user", b"pencil"));
    assert!(!Secret::parse(&md5).verify("other", b"pencil"));
}

#[test]
fn a_role_without_a_secret_has_the_same_salt_each_time() {
    let mock = |nonce: u8, role| {
        ScramSecret::mock(&[nonce; MOCK_NONCE_LEN], role, SCRAM_ITERATIONS_DEFAULT)
    };
    assert_eq!(mock(1, "a").salt, mock(1, "a").salt);
    assert_eq!(mock(1, "a").salt.len(), SCRAM_SALT_LEN);
    assert_ne!(mock(1, "a").salt, mock(1, "b").salt);
    assert_ne!(mock(1, "a").salt, mock(2, "a").salt);
    assert!(!mock(1, "a").verify(b""));
}

#[test]
fn nothing_of_a_secret_is_shown() {
    let md5 = "md5a6343a68d964ca596d9752250d54bb8a";
    let scram = ScramSecret::build(b"pencil", b"salt", SCRAM_ITERATIONS_DEFAULT);
    let text = scram.text().to_string();
    for secret in [md5, "pencil", text.as_str()] {
        let shown = std::format!("{:?} {scram:?}", Secret::parse(secret));
        assert!(!shown.contains("pencil") && !shown.contains("a6343"), "{shown}");
        assert!(shown.len() < 60, "{shown}");
    }
}
