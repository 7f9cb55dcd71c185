use core::num::NonZeroU32;
use std::string::ToString;
use std::vec::Vec;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;

use super::*;
use crate::password::{MOCK_NONCE_LEN, SCRAM_ITERATIONS_DEFAULT, Secret};

const NONCE: [u8; RAW_NONCE_LEN] = [0xa5; RAW_NONCE_LEN];
const HASH: &[u8] = b"a certificate's hash";

fn secret(password: &str) -> Credential {
    let iterations = NonZeroU32::new(3).unwrap();
    Credential::Secret(ScramSecret::build(password.as_bytes(), b"salt", iterations))
}

fn mock() -> Credential {
    Credential::Mock(ScramSecret::mock(&[1; MOCK_NONCE_LEN], "u", SCRAM_ITERATIONS_DEFAULT))
}

fn exchange(mechanism: &str, end_point: Option<&[u8]>, credential: Credential) -> Exchange {
    Exchange::new(mechanism.as_bytes(), end_point, credential, &NONCE).unwrap()
}

fn plain() -> Exchange {
    exchange(SCRAM_SHA_256, None, secret("pencil"))
}

#[test]
fn the_example_of_rfc_7677() {
    let text = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:\
                wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    let Secret::ScramSha256(secret) = Secret::parse(text) else { panic!("a secret") };
    assert!(secret.verify(b"pencil"));
    let mut server = exchange(SCRAM_SHA_256, None, Credential::Secret(secret));
    server.server_nonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0".to_string();
    let first = server.handle(Some(b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO")).unwrap();
    let expected =
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    assert_eq!(first, Step::Continue(expected.to_vec()));
    let last = server.handle(Some(
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    ));
    let signature = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";
    assert_eq!(last, Ok(Step::Success(signature.to_vec())));
}

/// What comes of an exchange with a client that is not ours.
fn with_client(
    mut server: Exchange,
    password: &str,
    binding: ChannelBinding,
) -> Result<Step, ScramViolation> {
    let mut client = ScramSha256::new(password.as_bytes(), binding);
    let Step::Continue(first) = server.handle(Some(client.message()))? else { panic!("too early") };
    client.update(&first).unwrap();
    let last = server.handle(Some(client.message()))?;
    if let Step::Success(signature) = &last {
        client.finish(signature).unwrap();
    }
    assert_eq!(server.handle(Some(b"x")), Err(ScramViolation::State));
    Ok(last)
}

#[test]
fn another_client_agrees() {
    let unsupported = ChannelBinding::unsupported;
    for password in ["pencil", "p\u{e9}ncil", "a\u{a0}b", "\u{7}"] {
        let server = || exchange(SCRAM_SHA_256, None, secret(password));
        assert!(matches!(with_client(server(), password, unsupported()), Ok(Step::Success(_))));
        let unrequested = ChannelBinding::unrequested();
        assert!(matches!(with_client(server(), password, unrequested), Ok(Step::Success(_))));
        assert_eq!(with_client(server(), "wrong", unsupported()), Ok(Step::Failure));
    }
    let server = exchange(SCRAM_SHA_256, None, mock());
    assert_eq!(with_client(server, "", unsupported()), Ok(Step::Failure));
}

#[test]
fn a_client_is_bound_to_the_certificate() {
    let bound = |hash: &[u8]| ChannelBinding::tls_server_end_point(hash.to_vec());
    let server = |mechanism| exchange(mechanism, Some(HASH), secret("pencil"));
    let outcome = with_client(server(SCRAM_SHA_256_PLUS), "pencil", bound(HASH));
    assert!(matches!(outcome, Ok(Step::Success(_))));
    let outcome = with_client(server(SCRAM_SHA_256_PLUS), "pencil", bound(b"another's"));
    assert_eq!(outcome, Err(ScramViolation::BindingMismatch));
    // Without binding it may come as well, unless it believes that there is none.
    let outcome = with_client(server(SCRAM_SHA_256), "pencil", ChannelBinding::unsupported());
    assert!(matches!(outcome, Ok(Step::Success(_))));
    let outcome = with_client(server(SCRAM_SHA_256), "pencil", ChannelBinding::unrequested());
    assert_eq!(outcome, Err(ScramViolation::Downgrade));
    let outcome = with_client(server(SCRAM_SHA_256), "pencil", bound(HASH));
    assert_eq!(outcome, Err(ScramViolation::UnexpectedBinding));
    for binding in [ChannelBinding::unsupported(), ChannelBinding::unrequested()] {
        let outcome = with_client(server(SCRAM_SHA_256_PLUS), "pencil", binding);
        assert_eq!(outcome, Err(ScramViolation::NoBinding));
    }
}

#[test]
fn only_what_was_offered_can_be_selected() {
    assert_eq!(mechanisms(None), ["SCRAM-SHA-256"]);
    assert_eq!(mechanisms(Some(HASH)), ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]);
    let select = |mechanism: &str, end_point| {
        Exchange::new(mechanism.as_bytes(), end_point, mock(), &NONCE).map(drop)
    };
    assert_eq!(select(SCRAM_SHA_256_PLUS, Some(HASH)), Ok(()));
    assert_eq!(select(SCRAM_SHA_256_PLUS, None), Err(ScramViolation::Mechanism));
    for other in ["", "SCRAM-SHA-1", "scram-sha-256", "SCRAM-SHA-256-"] {
        assert_eq!(select(other, Some(HASH)), Err(ScramViolation::Mechanism));
    }
}

#[test]
fn a_first_message_that_breaks_a_rule_is_told_which() {
    let malformed = |detail: &str| std::format!("08P01 malformed SCRAM message ({detail})");
    for (message, want) in [
        (&b""[..], malformed("The message is empty.")),
        (b"n,,n=,r=x\0", malformed("Message length does not match input length.")),
        (b"x,,n=,r=x", malformed("Unexpected channel-binding flag \"'x'\".")),
        (b"\xff", malformed("Unexpected channel-binding flag \"0xff\".")),
        (b"n", malformed("Comma expected, but found character \"0x00\".")),
        (b"y n", malformed("Comma expected, but found character \"0x20\".")),
        (
            b"n,a=x,n=,r=x",
            "0A000 client uses authorization identity, but it is not supported".to_string(),
        ),
        (b"n,b=x,", malformed("Unexpected attribute \"'b'\" in client-first-message.")),
        (b"n,,m=x,n=,r=x", "0A000 client requires an unsupported SCRAM extension".to_string()),
        (b"n,,", malformed("Expected attribute \"n\" but found \"0x00\".")),
        (b"n,,r=x", malformed("Expected attribute \"n\" but found \"'r'\".")),
        (b"n,,n", malformed("Expected character \"=\" for attribute \"n\".")),
        (b"n,,n=,", malformed("Expected attribute \"r\" but found \"0x00\".")),
        (b"n,,n=,r=a b", "08P01 non-printable characters in SCRAM nonce".to_string()),
        (b"n,,n=,r=x,1=", malformed("Attribute expected, but found invalid character \"'1'\".")),
        (b"n,,n=,r=x,a", malformed("Expected character \"=\" for attribute \"a\".")),
        (
            b"p=tls-unique,,",
            malformed(
                "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message \
                 includes channel binding data.",
            ),
        ),
    ] {
        assert_eq!(show(&plain().handle(Some(message)).unwrap_err()), want);
    }
    let mut server = exchange(SCRAM_SHA_256_PLUS, Some(HASH), mock());
    let violation = server.handle(Some(b"p=tls unique-and-forty-more-characters,,n=,r=x"));
    assert_eq!(
        show(&violation.unwrap_err()),
        "08P01 unsupported SCRAM channel-binding type \"tls?unique-and-forty-more-char\""
    );
    // A user name is nobody's, an extension that need not be understood is none.
    assert!(plain().handle(Some(b"n,,n=\xff,r=x,a=b,c=")).is_ok());
    // Who says nothing at first is asked.
    let mut server = plain();
    assert_eq!(server.handle(None), Ok(Step::Continue(Vec::new())));
    assert!(server.handle(Some(b"n,,n=,r=x")).is_ok());
}

#[test]
fn a_final_message_that_breaks_a_rule_is_told_which() {
    let malformed = |detail: &str| std::format!("08P01 malformed SCRAM message ({detail})");
    let nonce = std::format!("x{}", encode_base64(&NONCE));
    let proof = encode_base64(&[0; KEY_LEN]);
    let binding = "08P01 unexpected SCRAM channel-binding attribute in client-final-message";
    for (message, want) in [
        ("r=x".to_string(), malformed("Expected attribute \"c\" but found \"'r'\".")),
        ("c=eSws,r=x,p=".to_string(), binding.to_string()),
        ("c=xxxx,r=x,p=".to_string(), binding.to_string()),
        ("c=biws".to_string(), malformed("Expected attribute \"r\" but found \"0x00\".")),
        ("c=biws,r=x".to_string(), malformed("Attribute expected, but found end of string.")),
        ("c=biws,r=x,".to_string(), malformed("Attribute expected, but found end of string.")),
        ("c=biws,r=x,p=AA==".to_string(), malformed("Malformed proof in client-final-message.")),
        ("c=biws,r=x,p=A".to_string(), malformed("Malformed proof in client-final-message.")),
        (
            std::format!("c=biws,r={nonce},p={proof},q=1"),
            malformed("Garbage found at the end of client-final-message."),
        ),
        (
            std::format!("c=biws,r={nonce}x,p={proof}"),
            "08P01 invalid SCRAM response (Nonce does not match.)".to_string(),
        ),
        (
            std::format!("c=biws,r={},p={proof}", &nonce[1..]),
            "08P01 invalid SCRAM response (Nonce does not match.)".to_string(),
        ),
    ] {
        let mut server = plain();
        server.handle(Some(b"n,,n=,r=x")).unwrap();
        assert_eq!(show(&server.handle(Some(message.as_bytes())).unwrap_err()), want);
    }
    let mut server = plain();
    server.handle(Some(b"n,,n=,r=x")).unwrap();
    let wrong = std::format!("c=biws,r={nonce},e=,p={proof}");
    assert_eq!(server.handle(Some(wrong.as_bytes())), Ok(Step::Failure));
}

fn show(violation: &ScramViolation) -> String {
    let report = violation.report();
    let detail = report.detail.map(|detail| std::format!(" ({detail})")).unwrap_or_default();
    std::format!("{} {}{detail}", report.sqlstate.0, report.message)
}

#[test]
fn an_initial_response_names_its_mechanism() {
    let decode = InitialResponse::decode;
    let response = decode(b"SCRAM-SHA-256\0\0\0\0\x02ab").unwrap();
    let expected = InitialResponse { mechanism: b"SCRAM-SHA-256", data: Some(b"ab") };
    assert_eq!(response, expected);
    assert_eq!(decode(b"X\0\xff\xff\xff\xff").unwrap().data, None);
    assert_eq!(decode(b"X\0\0\0\0\0").unwrap().data, Some(&b""[..]));
    assert_eq!(decode(b"X\0\0\0\0\x02a"), Err(Malformed::Truncated));
    assert_eq!(decode(b"X\0\xff\xff\xff\xfe"), Err(Malformed::Truncated));
    assert_eq!(decode(b"X\0\0\0\0\0a"), Err(Malformed::TrailingBytes { count: 1 }));
    assert_eq!(decode(b"X"), Err(Malformed::UnterminatedString));
}

proptest! {
    #[test]
    fn no_bytes_let_anybody_in(
        first in proptest::collection::vec(any::<u8>(), 0..40),
        second in proptest::collection::vec(any::<u8>(), 0..60),
        tls in any::<bool>(),
        good in any::<bool>(),
    ) {
        let end_point = tls.then_some(HASH);
        let mut server = exchange(SCRAM_SHA_256, end_point, secret("pencil"));
        let first = if good { &b"n,,n=,r=x"[..] } else { &first };
        if server.handle(Some(first)).is_ok() {
            let outcome = server.handle(Some(&second));
            prop_assert!(!matches!(outcome, Ok(Step::Success(_))));
        }
    }

    #[test]
    fn no_letter_of_a_good_message_may_be_another(at in 0_usize..200, to in any::<u8>()) {
        let mut server = plain();
        let mut client = ScramSha256::new(b"pencil", ChannelBinding::unsupported());
        let Step::Continue(first) = server.handle(Some(client.message())).unwrap() else { panic!("early") };
        client.update(&first).unwrap();
        let mut message = client.message().to_vec();
        let place = at % message.len();
        let before = core::mem::replace(&mut message[place], to);
        let outcome = server.handle(Some(&message));
        // Of the last character of the proof two bits mean nothing.
        let is_last = place == message.len() - 2;
        prop_assert!(before == to || is_last || !matches!(outcome, Ok(Step::Success(_))));
    }
}
