//! Every method, right and wrong, and who may come in after it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use walhub_proto::hba::Membership;
use walhub_proto::password::{Encryption, encrypt};
use walhub_proto::roles::Role;
use walhub_proto::time::Timestamp;

use super::fake::show_message;
use super::*;
use crate::net::access::Access;
use crate::net::authenticate::{Applicant, Directory};

type Looking<'a> = Pin<Box<dyn Future<Output = Option<Arc<Role>>> + 'a>>;

/// Roles, and whose members they are.
#[derive(Clone, Default)]
struct Roles {
    by_name: BTreeMap<String, Arc<Role>>,
    members: Vec<(&'static str, &'static str)>,
}

impl Roles {
    fn add(&mut self, name: &str, change: impl FnOnce(&mut Role)) {
        let oid = 16_384 + u32::try_from(self.by_name.len()).unwrap();
        let mut role = Role { login: true, ..Role::new(oid, name.to_owned()) };
        change(&mut role);
        self.by_name.insert(name.to_owned(), Arc::new(role));
    }
}

impl Directory for Roles {
    fn role<'a>(&'a self, user: &'a str) -> Looking<'a> {
        Box::pin(std::future::ready(self.by_name.get(user).cloned()))
    }

    fn membership(&self) -> Arc<dyn Membership> {
        Arc::new(self.clone())
    }

    fn has_privileges_of(&self, role: &Role, of: &str) -> bool {
        self.is_member(&role.name, of)
    }
}

impl Membership for Roles {
    fn role_exists(&self, role: &str) -> bool {
        self.by_name.contains_key(role)
    }

    fn is_member(&self, user: &str, role: &str) -> bool {
        user == role || self.members.contains(&(user, role))
    }
}

const SCRAM: Encryption = Encryption::ScramSha256 { iterations: NonZeroU32::new(8).unwrap() };

fn secret(encryption: Encryption, role: &str, password: &str) -> Option<String> {
    Some(encrypt(encryption, role, password, b"sixteen bytes...").to_string())
}

/// `scram` and `md5` have the password "pencil", as has everybody who has one.
fn roles() -> Roles {
    let mut roles = Roles::default();
    roles.add("scram", |role| role.password = secret(SCRAM, "scram", "pencil"));
    roles.add("md5", |role| role.password = secret(Encryption::Md5, "md5", "pencil"));
    roles.add("plain", |role| role.password = Some("pencil".to_owned()));
    roles.add("nopassword", |_| ());
    roles.add("expired", |role| {
        role.password = secret(SCRAM, "expired", "pencil");
        role.valid_until = Some(Timestamp(0));
    });
    roles.add("valid", |role| {
        role.password = secret(SCRAM, "valid", "pencil");
        role.valid_until = Some(Timestamp(i64::MAX));
    });
    roles.add("nologin", |role| {
        role.password = secret(SCRAM, "nologin", "pencil");
        role.login = false;
    });
    roles.add("boss", |role| role.superuser = true);
    roles.add("standby", |role| role.replication = true);
    roles.add("reserved", |_| ());
    roles.add("two", |role| role.connection_limit = 2);
    roles.members.push(("reserved", "pg_use_reserved_connections"));
    roles
}

fn guard(hba: &str, ident: &str, roles: Roles) -> Guard {
    Guard {
        access: Access::of_texts(hba, ident),
        directory: Arc::new(roles),
        mock_nonce: [7; 32],
        tls: watch::channel(None).1,
    }
}

fn harness(hba: &str) -> Harness {
    Harness::guarded(FakeHub::ready(), guard(hba, "m root scram\nm other boss", roles()), |_| ())
}

/// Logs in as libpq does; the messages other than requests for authentication, the method first.
async fn log_in(client: &mut RawClient, user: &str, password: &str) -> Vec<String> {
    let mut said = Vec::new();
    let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    while let Some((kind, body)) = client.message().await {
        let request = (kind == b'R').then(|| u32::from_be_bytes(body[..4].try_into().unwrap()));
        match request {
            Some(3) => {
                said.push("password".to_owned());
                client.respond(&[password.as_bytes(), b"\0"].concat()).await;
            }
            Some(5) => {
                said.push("md5".to_owned());
                let salt = body[4..].try_into().unwrap();
                let digest = md5_hash(user.as_bytes(), password.as_bytes(), salt);
                client.respond(&[digest.as_bytes(), b"\0"].concat()).await;
            }
            Some(10) => {
                said.push("scram".to_owned());
                assert_eq!(&body[4..], b"SCRAM-SHA-256\0\0");
                client.respond(&initial_response(scram.message())).await;
            }
            Some(11) => {
                scram.update(&body[4..]).unwrap();
                client.respond(scram.message()).await;
            }
            Some(12) => scram.finish(&body[4..]).unwrap(),
            Some(0) => said.push("ok".to_owned()),
            Some(other) => panic!("{other}"),
            None if matches!(kind, b'S' | b'K') => {}
            None => said.push(show_message(kind, &body)),
        }
        if kind == b'Z' {
            break;
        }
    }
    said
}

fn initial_response(data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap().to_be_bytes();
    [&b"SCRAM-SHA-256\0"[..], &len, data].concat()
}

async fn outcome(harness: &Harness, user: &str, password: &str) -> String {
    let mut client = harness.connect(&[("user", user), ("database", "d")]).await;
    log_in(&mut client, user, password).await.join("; ")
}

#[test]
fn each_method_takes_the_right_password_and_no_other() {
    run(async {
        for (method, user, request) in [
            ("password", "scram", "password"),
            ("password", "md5", "password"),
            ("md5", "scram", "scram"),
            ("md5", "md5", "md5"),
            ("scram-sha-256", "scram", "scram"),
            ("scram-sha-256", "valid", "scram"),
        ] {
            let harness = harness(&format!("local all all {method}"));
            let case = format!("{user} by {method}");
            assert_eq!(outcome(&harness, user, "pencil").await, format!("{request}; ok; Z I"));
            let refused = format!("password authentication failed for user \"{user}\"");
            for wrong in ["Pencil", "pencil ", "x"] {
                let said = outcome(&harness, user, wrong).await;
                assert_eq!(said, format!("{request}; E FATAL 28P01 {refused}"), "{case}");
            }
        }
    });
}

#[test]
fn who_cannot_have_the_right_password_hears_what_a_wrong_one_hears() {
    run(async {
        for (method, request) in
            [("password", "password"), ("md5", "scram"), ("scram-sha-256", "scram")]
        {
            let harness = harness(&format!("local all all {method}"));
            for user in ["nobody", "plain", "nopassword", "expired"] {
                let refused = format!("password authentication failed for user \"{user}\"");
                for password in ["pencil", "x"] {
                    let said = outcome(&harness, user, password).await;
                    assert_eq!(said, format!("{request}; E FATAL 28P01 {refused}"), "{method}");
                }
            }
        }
        // A digest is no secret of SCRAM.
        let harness = harness("local all all scram-sha-256");
        let refused = "scram; E FATAL 28P01 password authentication failed for user \"md5\"";
        assert_eq!(outcome(&harness, "md5", "pencil").await, refused);
    });
}

#[test]
fn a_role_that_there_is_not_has_a_salt_and_it_stays_the_same() {
    run(async {
        let harness = harness("local all all scram-sha-256");
        let first = async |user: &str| {
            let mut client = harness.connect(&[("user", user)]).await;
            client.message().await.unwrap();
            client.respond(&initial_response(b"n,,n=,r=x")).await;
            let (_, body) = client.message().await.unwrap();
            let text = String::from_utf8(body[4..].to_vec()).unwrap();
            let (nonce, salt) = text.split_once(",s=").unwrap();
            (nonce.to_owned(), salt.to_owned())
        };
        let (a, again, b) = (first("nobody").await, first("nobody").await, first("other").await);
        assert_eq!(a.1, again.1);
        assert_ne!(a.0, again.0);
        assert_ne!(a.1, b.1);
        assert_eq!(a.1.len(), 24 + ",i=4096".len());
    });
}

#[test]
fn what_only_the_log_is_told_names_the_rule() {
    let rules = Access::of_texts("# first\nlocal all all md5 # why", "");
    run(async move {
        let hub = FakeHub::ready();
        let guard = Guard {
            access: rules,
            directory: Arc::new(roles()),
            mock_nonce: [7; 32],
            tls: watch::channel(None).1,
        };
        let harness = Harness::guarded(hub, guard, |_| ());
        for (user, reason) in [
            ("md5", "Password does not match for user \"md5\".\n"),
            ("scram", ""),
            ("nobody", "Role \"nobody\" does not exist.\n"),
            ("nopassword", "User \"nopassword\" has no password assigned.\n"),
            ("expired", "User \"expired\" has an expired password.\n"),
            ("plain", "User \"plain\" does not have a valid SCRAM secret.\n"),
        ] {
            let refusal = refusal(&harness, applicant(user), None, "x").await;
            let report = refusal.for_log();
            assert_eq!(report.message, refusal.report.message);
            assert_eq!(refusal.report.detail, None);
            let line = "Connection matched file \"/hba\" line 2: \"local all all md5 # why\"";
            assert_eq!(report.detail.unwrap(), format!("{reason}{line}"));
            assert!(refusal.has_failed);
        }
    });
}

fn applicant(user: &str) -> Applicant {
    Applicant {
        user: user.to_owned(),
        database: "d".to_owned(),
        mode: ReplicationMode::Off,
        peer: None,
        packet_bytes: 100,
    }
}

/// Has a client with that password refused.
async fn refusal(
    harness: &Harness,
    applicant: Applicant,
    tls: Option<TlsFacts>,
    password: &str,
) -> Box<Refusal> {
    match attempt(harness, applicant, tls, password).await {
        Err(NotAuthenticated::Refused(refusal)) => refusal,
        other => panic!("{:?}", other.map(|(authenticated, _)| authenticated)),
    }
}

async fn attempt(
    harness: &Harness,
    applicant: Applicant,
    tls: Option<TlsFacts>,
    password: &str,
) -> Result<(Authenticated, Option<Arc<Role>>), NotAuthenticated> {
    let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let mut client = RawClient::new(ours);
    let mut connection = Connection::new(Stream::unix(theirs), Vec::new());
    connection.tls = tls.map(Arc::new);
    let silent = harness.services.unadmitted.enter(Origin::User(None));
    let (user, password) = (applicant.user.clone(), password.to_owned());
    let answering = tokio::task::spawn_local(async move {
        log_in(&mut client, &user, &password).await;
    });
    let outcome = authenticate(&mut connection, &harness.services, &applicant, &silent).await;
    drop(connection);
    answering.await.unwrap();
    outcome
}

#[test]
fn a_rule_may_say_no_and_no_rule_says_it_too() {
    run(async {
        let harness =
            harness("local d scram reject\nlocal replication scram reject\nlocal e all trust");
        assert_eq!(
            outcome(&harness, "scram", "pencil").await,
            "E FATAL 28000 pg_hba.conf rejects connection for host \"[local]\", user \"scram\", \
             database \"d\", no encryption"
        );
        assert_eq!(
            outcome(&harness, "md5", "pencil").await,
            "E FATAL 28000 no pg_hba.conf entry for host \"[local]\", user \"md5\", database \
             \"d\", no encryption"
        );
        let physical = async |user| {
            let parameters = [("user", user), ("replication", "true")];
            harness.connect(&parameters).await.answer().await.join("; ")
        };
        assert_eq!(
            physical("scram").await,
            "E FATAL 28000 pg_hba.conf rejects replication connection for host \"[local]\", user \
             \"scram\", no encryption"
        );
        assert_eq!(
            physical("md5").await,
            "E FATAL 28000 no pg_hba.conf entry for replication connection from host \"[local]\", \
             user \"md5\", no encryption"
        );
        let from = |peer: &str| Applicant { peer: Some(peer.parse().unwrap()), ..applicant("x") };
        let plain = refusal(&harness, from("[::ffff:10.0.0.1]:1"), None, "").await;
        assert!(plain.report.message.contains("for host \"10.0.0.1\""), "{plain:?}");
        let tls = refusal(&harness, from("10.0.0.1:1"), Some(certificate(None)), "").await;
        assert!(tls.report.message.ends_with(", SSL encryption"), "{tls:?}");
        assert!(!tls.has_failed);
    });
}

#[test]
fn the_kernel_says_who_a_peer_is() {
    // Tests run as root.
    run(async {
        let with = |option: &str| harness(&format!("local all all peer {option}"));
        let refused =
            |user| format!("E FATAL 28000 Peer authentication failed for user \"{user}\"");
        assert_eq!(outcome(&with("map=m"), "scram", "").await, "ok; Z I");
        assert_eq!(outcome(&with("map=m"), "boss", "").await, refused("boss"));
        assert_eq!(outcome(&with("map=n"), "scram", "").await, refused("scram"));
        assert_eq!(outcome(&with(""), "scram", "").await, refused("scram"));
        // It is who it says, but there is no such role.
        assert_eq!(
            outcome(&with(""), "root", "").await,
            "ok; E FATAL 28000 role \"root\" does not exist"
        );
        let (authenticated, _) =
            attempt(&with("map=m"), applicant("scram"), None, "").await.unwrap();
        assert_eq!(authenticated.system_user().as_deref(), Some("peer:root"));
    });
}

fn certificate(common_name: Option<&str>) -> TlsFacts {
    TlsFacts {
        version: "TLSv1.3",
        cipher: "TLS_AES_256_GCM_SHA384",
        bits: 256,
        client_subject: None,
        issuer_dn: None,
        client_dn: common_name.map(|name| format!("CN={name},O=walhub")),
        client_cn: common_name.map(str::to_owned),
        client_serial: common_name.map(|_| "1".to_owned()),
        server_end_point: Vec::new(),
    }
}

#[test]
fn a_certificate_says_who_it_is() {
    run(async {
        let by = async |rule: &str, user: &str, name: Option<&str>| {
            let ident = "m root scram\nd \"CN=root,O=walhub\" scram";
            let guard = guard(&format!("hostssl all all all {rule}"), ident, roles());
            let harness = Harness::guarded(FakeHub::ready(), guard, |_| ());
            let peer = Some("10.0.0.1:1".parse().unwrap());
            let applicant = Applicant { peer, ..applicant(user) };
            match attempt(&harness, applicant, Some(certificate(name)), "pencil").await {
                Ok((authenticated, _)) => authenticated.system_user().unwrap_or_default(),
                Err(NotAuthenticated::Refused(refusal)) => refusal.report.message,
                Err(other) => format!("{other:?}"),
            }
        };
        let (dn, failed) = ("cert:CN=scram,O=walhub", "authentication failed for user \"scram\"");
        assert_eq!(by("cert", "scram", Some("scram")).await, dn);
        assert_eq!(by("cert", "scram", Some("root")).await, format!("certificate {failed}"));
        assert_eq!(
            by("cert map=m", "scram", Some("root")).await,
            dn.replace("CN=scram", "CN=root")
        );
        let mapped = by("cert clientname=DN map=d", "scram", Some("root")).await;
        assert_eq!(mapped, dn.replace("CN=scram", "CN=root"));
        let absent = "connection requires a valid client certificate";
        assert_eq!(by("cert", "scram", None).await, absent);
        assert_eq!(by("cert", "scram", Some("")).await, format!("certificate {failed}"));
        // Password and certificate.
        let both = "scram-sha-256 clientcert=verify-full";
        assert_eq!(by(both, "scram", Some("scram")).await, "scram-sha-256:scram");
        assert_eq!(by(both, "scram", Some("root")).await, format!("password {failed}"));
        let any = "scram-sha-256 clientcert=verify-ca";
        assert_eq!(by(any, "scram", Some("root")).await, "scram-sha-256:scram");
        assert_eq!(by(any, "scram", None).await, absent);
        assert_eq!(by("trust clientcert=verify-full", "scram", Some("scram")).await, "");
    });
}

#[test]
fn who_has_shown_who_it_is_may_still_not_come_in() {
    run(async {
        let with = |settings: fn(&mut Settings), version: u32| {
            let mut hub = FakeHub::ready();
            hub.identity.as_mut().unwrap().server_version_num = version;
            Harness::guarded(hub, guard("local all,replication all trust", "", roles()), settings)
        };
        let harness = with(|_| (), 150_018);
        let sql = async |user: &str| outcome(&harness, user, "").await;
        assert_eq!(sql("nobody").await, "ok; E FATAL 28000 role \"nobody\" does not exist");
        assert_eq!(
            sql("nologin").await,
            "ok; E FATAL 28000 role \"nologin\" is not permitted to log in"
        );
        // Trust asks for no password, so none has expired.
        assert_eq!(sql("expired").await, "ok; Z I");

        let connect = async |harness: &Harness, user: &str, replication: &str| {
            let parameters = [("user", user), ("replication", replication)];
            let mut client = harness.connect(&parameters).await;
            let said = log_in(&mut client, user, "").await.join("; ");
            (client, said)
        };
        let (_first, said) = connect(&harness, "two", "false").await;
        assert_eq!(said, "ok; Z I");
        let (second, said) = connect(&harness, "two", "false").await;
        assert_eq!(said, "ok; Z I");
        let too_many = "ok; E FATAL 53300 too many connections for role \"two\"";
        assert_eq!(connect(&harness, "two", "false").await.1, too_many);
        drop(second);
        while connect(&harness, "two", "false").await.1 == too_many {
            tokio::task::yield_now().await;
        }

        for (version, words) in [
            (150_018, "must be superuser or replication role to start walsender"),
            (
                160_001,
                "permission denied to start WAL sender (Only roles with the REPLICATION attribute \
                 may start a WAL sender process.)",
            ),
        ] {
            let harness = with(|_| (), version);
            for replication in ["true", "database"] {
                let said = connect(&harness, "scram", replication).await.1;
                assert_eq!(said, format!("ok; E FATAL 42501 {words}"));
                for user in ["standby", "boss"] {
                    assert_eq!(connect(&harness, user, replication).await.1, "ok; Z I");
                }
            }
        }
    });
}

#[test]
fn the_last_connections_are_for_whom_they_are_reserved() {
    run(async {
        for (version, for_superusers) in [
            (150_018, "non-replication superuser connections"),
            (160_001, "roles with the SUPERUSER attribute"),
        ] {
            let mut hub = FakeHub::ready();
            hub.identity.as_mut().unwrap().server_version_num = version;
            let guard = guard("local all all trust", "", roles());
            let harness = Harness::guarded(hub, guard, |settings| {
                settings.max_connections = 4;
                settings.superuser_reserved_connections = 1;
                settings.reserved_connections = 2;
            });
            let mut open = Vec::new();
            let mut connect = async |user: &str| {
                let mut client = harness.connect(&[("user", user)]).await;
                let said = log_in(&mut client, user, "").await.join("; ");
                open.push(client);
                said
            };
            let privileged = "roles with privileges of the \"pg_use_reserved_connections\" role";
            let reserved = |whom| {
                format!("ok; E FATAL 53300 remaining connection slots are reserved for {whom}")
            };
            assert_eq!(connect("scram").await, "ok; Z I");
            assert_eq!(connect("scram").await, reserved(privileged));
            assert_eq!(connect("reserved").await, "ok; Z I");
            assert_eq!(connect("reserved").await, "ok; Z I");
            for user in ["reserved", "scram"] {
                assert_eq!(connect(user).await, reserved(for_superusers));
            }
            assert_eq!(connect("boss").await, "ok; Z I");
            for user in ["boss", "scram"] {
                assert_eq!(connect(user).await, "E FATAL 53300 sorry, too many clients already");
            }
        }
    });
}

#[test]
fn an_answer_that_breaks_a_rule_is_told_which_and_one_that_is_too_long_is_not_taken() {
    run(async {
        let said = async |method: &str, bytes: &[u8]| {
            let harness = harness(&format!("local all all {method}"));
            let mut client = harness.connect(&[("user", "scram")]).await;
            client.message().await.unwrap();
            client.send(bytes).await;
            client.answer().await.join("; ")
        };
        let frame = |body: &[u8]| {
            let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
            [b"p", &length[..], body].concat()
        };
        for (bytes, want) in [
            (b"Q\0\0\0\x05\0".to_vec(), "08P01 expected password response, got message type 81"),
            (b"X".to_vec(), "08P01 expected password response, got message type 88"),
            (frame(b"\0"), "28P01 empty password returned by client"),
            (frame(b""), "08P01 invalid password packet size"),
            (frame(b"pencil"), "08P01 invalid password packet size"),
            (frame(b"pencil\0\0"), "08P01 invalid password packet size"),
            (frame(b"pen\0cil\0"), "08P01 invalid password packet size"),
        ] {
            assert_eq!(said("password", &bytes).await, format!("E FATAL {want}"));
        }
        for bytes in [&b"p\0\0\0\x03"[..], b"p\0\0\xff\xff", b"p\xff\xff\xff\xff"] {
            assert_eq!(said("password", bytes).await, "", "{bytes:?}");
        }
        let failed = "28P01 password authentication failed for user \"scram\"";
        let long = frame(&[&[b'x'; 12_000][..], &[0]].concat());
        assert_eq!(said("password", &long).await, format!("E FATAL {failed}"));
        for (bytes, want) in [
            (b"Q\0\0\0\x05\0".to_vec(), "08P01 expected SASL response, got message type 81"),
            (b"p\0\0\x04\x01".to_vec(), failed),
            (frame(b"SCRAM-SHA-256"), "08P01 invalid string in message"),
            (frame(b"SCRAM-SHA-256\0\0"), "08P01 insufficient data left in message"),
            (frame(b"SCRAM-SHA-256\0\0\0\0\x09n"), "08P01 insufficient data left in message"),
            (frame(b"SCRAM-SHA-256\0\xff\xff\xff\xffn"), "08P01 invalid message format"),
            (
                frame(b"SCRAM-SHA-256-PLUS\0\0\0\0\x01n"),
                "08P01 client selected an invalid SASL authentication mechanism",
            ),
            (
                frame(&initial_response(b"")),
                "08P01 malformed SCRAM message (The message is empty.)",
            ),
        ] {
            assert_eq!(said("scram-sha-256", &bytes).await, format!("E FATAL {want}"));
        }
    });
}

#[test]
fn what_is_held_of_who_is_not_let_in_yet_is_bounded() {
    run(async {
        let harness = harness("local all all password");
        // A large startup packet leaves less for the password.
        let options = "x".repeat(9_000);
        let parameters = [("user", "scram"), ("options", options.as_str())];
        for (len, taken) in [(6_000, true), (8_000, false)] {
            let mut client = harness.connect(&parameters).await;
            client.message().await.unwrap();
            client.respond(&[&vec![b'x'; len][..], &[0]].concat()).await;
            assert_eq!(!client.answer().await.is_empty(), taken, "{len}");
        }
    });
}

#[test]
fn an_answer_in_pieces_is_one_answer_and_what_follows_is_the_sessions() {
    run(async {
        let harness = harness("local all all password");
        let mut client = harness.connect(&[("user", "scram")]).await;
        client.message().await.unwrap();
        for byte in b"p\0\0\0\x0bpencil" {
            client.send(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        client.send(b"\0Q\0\0\0\x0dselect 7\0").await;
        let greeting = client.answer().await;
        assert_eq!(greeting.last().unwrap(), "Z I");
        assert_eq!(client.answer().await[1], "D 7");
    });
}

#[test]
fn a_login_that_stops_half_way_ends_and_makes_room() {
    run(async {
        let guard = || guard("local all all scram-sha-256", "", roles());
        let harness = Harness::guarded(FakeHub::ready(), guard(), |settings| {
            settings.authentication_timeout = Duration::from_millis(30);
        });
        let half_way = async |harness: &Harness| {
            let mut client = harness.connect(&[("user", "scram")]).await;
            client.message().await.unwrap();
            client.respond(&initial_response(b"n,,n=,r=x")).await;
            assert_eq!(client.message().await.unwrap().0, b'R');
            client
        };
        assert_eq!(half_way(&harness).await.answer().await, [""; 0]);

        let harness = Harness::guarded(FakeHub::ready(), guard(), |_| ());
        let mut stuck = Vec::new();
        for _ in 0..300 {
            stuck.push(half_way(&harness).await);
        }
        let refused = ["E FATAL 53300 sorry, too many clients already"];
        assert_eq!(stuck[0].answer().await, refused);
        // None of them has taken a session's place.
        assert_eq!(harness.services.sql_sessions(), 0);
        assert_eq!(outcome(&harness, "scram", "pencil").await, "scram; ok; Z I");
    });
}

#[test]
fn who_fails_is_held_up_and_in_nobodys_way() {
    run(async {
        let delayed = guard("local all all scram-sha-256", "", roles());
        let delayed = Harness::guarded(FakeHub::ready(), delayed, |settings| {
            settings.auth_delay = Duration::from_millis(50);
        });
        let began = Instant::now();
        let said = outcome(&delayed, "scram", "x").await;
        assert!(said.starts_with("scram; E FATAL 28P01"), "{said}");
        assert!(began.elapsed() >= Duration::from_millis(50));
        let guard = guard("local all all scram-sha-256", "", roles());
        let harness = Harness::guarded(FakeHub::ready(), guard, |settings| {
            settings.auth_delay = Duration::from_secs(5);
            settings.superuser_reserved_connections = 0;
            settings.max_connections = 1;
            settings.hub.max_wal_senders = 1;
        });
        // More than there may be who are not let in yet: those who have failed go, and who succeeds is not held up.
        let began = Instant::now();
        let mut failed = Vec::new();
        for _ in 0..40 {
            failed.push(fail(&harness).await);
        }
        assert_eq!(outcome(&harness, "scram", "pencil").await, "scram; ok; Z I");
        assert!(began.elapsed() < Duration::from_secs(5));
        let refused = ["E FATAL 53300 sorry, too many clients already"];
        assert_eq!(failed[0].answer().await, refused);
    });
}

/// A client that has sent a wrong proof, and has not been told so yet.
async fn fail(harness: &Harness) -> RawClient {
    let mut scram = ScramSha256::new(b"x", ChannelBinding::unsupported());
    let mut client = harness.connect(&[("user", "scram")]).await;
    client.message().await.unwrap();
    client.respond(&initial_response(scram.message())).await;
    let (_, body) = client.message().await.unwrap();
    scram.update(&body[4..]).unwrap();
    client.respond(scram.message()).await;
    client
}
