//! TLS towards clients and standbys: with which `sslmode`, with which certificates, and what becomes of it at a reload.

use std::fs;
use std::path::Path;

use walhub_tests::authority::{Authority, Issued, Validity};
use walhub_tests::client::{SqlServer, run_psql, run_psql_ok};
use walhub_tests::compare::assert_equal_segments;
use walhub_tests::hub::{Hub, HubBuilder, walhub};
use walhub_tests::process::said;
use walhub_tests::receivewal::ReceiveWal;
use walhub_tests::scratch::{Scratch, host};
use walhub_tests::topology::Relay;

const OWN: &str = "where pid = pg_backend_pid()";

/// A certificate for the address that servers of the tests listen on.
fn server_certificate(authority: &Authority) -> Issued {
    let extensions = format!("subjectAltName = IP:{}, DNS:walhub.example\n", host());
    authority.issue("server", "/CN=walhub", &extensions, Validity::Valid)
}

fn with_tls(hub: HubBuilder, certificate: &Path, key: &Path) -> HubBuilder {
    let hub = hub.set("ssl", "on").set("ssl_cert_file", certificate.display().to_string());
    hub.set("ssl_key_file", key.display().to_string())
}

fn ask(hub: &Hub, more: &str) -> Result<String, String> {
    let conninfo = format!("{} {more}", hub.endpoint().database());
    let query = format!("select ssl, version, cipher, bits from pg_stat_ssl {OWN}");
    let output = run_psql(&conninfo, &["-c", &query]);
    if output.status.success() { Ok(said(&output)) } else { Err(said(&output)) }
}

#[track_caller]
fn assert_asked(hub: &Hub, more: &str, want: Result<&str, &str>) {
    let got = ask(hub, more);
    match (&got, want) {
        (Ok(got), Ok(want)) if got.trim() == want => {}
        (Err(got), Err(want)) if got.contains(want) => {}
        _ => panic!("{more}: {got:?}, and not {want:?}"),
    }
}

#[test]
fn every_sslmode_gets_what_the_server_has() {
    let scratch = Scratch::new();
    let (authority, other) =
        (Authority::new(&scratch, "authority"), Authority::new(&scratch, "other"));
    let issued = server_certificate(&authority);
    let (root, other_root) = (authority.root.display(), other.root.display());
    let verify = |mode: &str| format!("sslmode={mode} sslrootcert={root}");
    let none = "f|||";
    let tls = "t|TLSv1.3|TLS_AES_256_GCM_SHA384|256";

    let plain = Hub::named("plain").start(&scratch);
    for mode in ["disable", "allow", "prefer"] {
        assert_asked(&plain, &format!("sslmode={mode}"), Ok(none));
    }
    let no_ssl = "server does not support SSL, but SSL was required";
    assert_asked(&plain, "sslmode=require", Err(no_ssl));
    assert_asked(&plain, &verify("verify-ca"), Err(no_ssl));
    assert_asked(&plain, &verify("verify-full"), Err(no_ssl));
    drop(plain);

    let hub = with_tls(Hub::named("hub"), &issued.certificate, &issued.key).start(&scratch);
    assert_asked(&hub, "sslmode=disable", Ok(none));
    assert_asked(&hub, "sslmode=allow", Ok(none));
    assert_asked(&hub, "sslmode=prefer", Ok(tls));
    assert_asked(&hub, "sslmode=require", Ok(tls));
    assert_asked(&hub, &verify("verify-ca"), Ok(tls));
    assert_asked(&hub, &verify("verify-full"), Ok(tls));
    let stranger = format!("sslmode=verify-ca sslrootcert={other_root}");
    assert_asked(&hub, &stranger, Err("certificate verify failed"));
    let named = |name: &str| format!("{} host={name} hostaddr={}", verify("verify-full"), host());
    assert_asked(&hub, &named("walhub.example"), Ok(tls));
    let mismatch = "does not match host name \"elsewhere.example\"";
    assert_asked(&hub, &named("elsewhere.example"), Err(mismatch));
    assert_asked(
        &hub,
        "sslmode=require ssl_max_protocol_version=TLSv1.2",
        Ok("t|TLSv1.2|ECDHE-ECDSA-AES256-GCM-SHA384|256"),
    );
}

#[test]
fn a_chain_is_sent_whole() {
    let scratch = Scratch::new();
    let root = Authority::new(&scratch, "root");
    let below = root.intermediate(&scratch, "below");
    let issued = server_certificate(&below);
    let verify = format!("sslmode=verify-full sslrootcert={}", root.root.display());
    let mut hub = with_tls(Hub::named("hub"), &issued.certificate, &issued.key).start(&scratch);
    assert!(ask(&hub, &verify).unwrap().starts_with('t'));
    hub.kill9();
    hub.set("ssl_cert_file", &issued.leaf.display().to_string());
    hub.start();
    assert_asked(&hub, &verify, Err("certificate verify failed"));
}

#[test]
fn certificates_of_clients_are_verified_where_there_is_an_authority() {
    let scratch = Scratch::new();
    let (authority, other) =
        (Authority::new(&scratch, "authority"), Authority::new(&scratch, "other"));
    let server = server_certificate(&authority);
    let client = |name: &str, validity| {
        let subject = format!("/O=walhub/CN={name}");
        authority.issue(name, &subject, "extendedKeyUsage = clientAuth\n", validity)
    };
    let (good, expired) = (client("good", Validity::Valid), client("expired", Validity::Expired));
    let revoked = client("revoked", Validity::Valid);
    let list = authority.revoke(&revoked);
    let stranger =
        other.issue("stranger", "/CN=stranger", "extendedKeyUsage = clientAuth\n", Validity::Valid);
    let mut hub = with_tls(Hub::named("hub"), &server.certificate, &server.key)
        .set("ssl_ca_file", authority.root.display().to_string())
        .set("ssl_crl_file", list.display().to_string())
        .start(&scratch);
    let dn = |hub: &Hub, issued: &Issued| {
        let (certificate, key) = (issued.certificate.display(), issued.key.display());
        let conninfo = format!(
            "{} sslmode=require sslcert={certificate} sslkey={key}",
            hub.endpoint().database()
        );
        let query = format!("select client_dn, issuer_dn, client_serial from pg_stat_ssl {OWN}");
        run_psql(&conninfo, &["-c", &query])
    };
    let shown = dn(&hub, &good);
    let serial = std::process::Command::new("openssl")
        .args(["x509", "-noout", "-serial", "-in"])
        .arg(&good.leaf)
        .output()
        .expect("openssl");
    let serial = String::from_utf8_lossy(&serial.stdout).trim().replace("serial=", "");
    let shown = said(&shown);
    let shown: Vec<&str> = shown.trim().split('|').collect();
    assert_eq!(shown[..2], ["/O=walhub/CN=good", "/CN=authority"]);
    assert!(shown[2].len() > serial.len(), "{shown:?}, {serial} in hexadecimal digits");
    assert!(ask(&hub, "sslmode=require").unwrap().starts_with('t'), "nobody must have one");
    for (issued, want) in [
        (&expired, "certificate expired"),
        (&revoked, "certificate revoked"),
        (&stranger, "unknown ca"),
    ] {
        let mark = hub.log().mark();
        let output = dn(&hub, issued);
        assert!(!output.status.success() && said(&output).contains(want), "{}", said(&output));
        hub.log().wait_for(mark, "could not accept SSL connection: certificate verify failed");
    }
    // Without an authority nobody is asked.
    hub.kill9();
    hub.set("ssl_ca_file", "");
    hub.set("ssl_crl_file", "");
    hub.start();
    assert_eq!(said(&dn(&hub, &stranger)).trim(), "||");
}

#[test]
fn a_server_whose_certificate_is_bad_does_not_start() {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").set("ssl", "on").build(&scratch);
    let text = hub.refusal();
    assert!(text.contains("FATAL:  could not load server certificate file"), "{text}");
    assert!(text.contains("server.crt\": No such file or directory"), "{text}");
    let issued = server_certificate(&Authority::new(&scratch, "authority"));
    let hub = with_tls(Hub::named("other"), &issued.certificate, &issued.certificate);
    let text = hub.build(&scratch).refusal();
    assert!(text.contains("has group or world access"), "{text}");
}

#[test]
fn a_reload_is_for_new_connections_and_a_bad_one_changes_nothing() {
    let relay_scratch = Scratch::new();
    let (old, new) = (Authority::new(&relay_scratch, "old"), Authority::new(&relay_scratch, "new"));
    let (before, after) = (server_certificate(&old), server_certificate(&new));
    let (certificate, key) = (relay_scratch.path("server.crt"), relay_scratch.path("server.key"));
    let install = |issued: &Issued| {
        fs::copy(&issued.certificate, &certificate).expect("a file");
        fs::copy(&issued.key, &key).expect("a file");
    };
    install(&before);
    let relay = Relay::with(|p| p.segment_size_mb(1), |hub| with_tls(hub, &certificate, &key));
    let hub = &relay.hub;
    let verify = |authority: &Authority| {
        format!("sslmode=verify-ca sslrootcert={}", authority.root.display())
    };
    assert!(ask(hub, &verify(&old)).is_ok());
    let mut receive = ReceiveWal::start(hub, "received", &[], &relay.scratch);
    receive.wait_receiving(&relay.primary);
    let reload = |said: &str| {
        let mark = hub.log().mark();
        let data = hub.data().display().to_string();
        assert!(walhub(["reload", "-D", &data]).status.success());
        hub.log().wait_for(mark, said);
    };
    // A key that does not belong to it.
    fs::copy(&after.certificate, &certificate).expect("a file");
    reload("SSL configuration was not reloaded");
    assert!(ask(hub, &verify(&old)).is_ok());
    install(&after);
    reload("received SIGHUP");
    walhub_tests::wait::wait_until("the new certificate is used", || {
        ask(hub, &verify(&new)).is_ok()
    });
    assert_asked(hub, &verify(&old), Err("certificate verify failed"));
    // Who was there before goes on.
    relay.primary.switch_wal(2);
    receive.finish_at(&relay.primary.finish_segment());
    let end = relay.primary.current_segment();
    assert_equal_segments(&relay.primary.pg_wal(), receive.dir(), &end, 2);
}

#[test]
fn standbys_stream_over_tls_from_memory_and_from_segments() {
    let scratch = Scratch::new();
    let issued = server_certificate(&Authority::new(&scratch, "authority"));
    let relay = Relay::with(
        |p| p.segment_size_mb(1),
        |hub| with_tls(hub, &issued.certificate, &issued.key).set("tail_cache_size", "16MB"),
    );
    relay.primary.write_wal(40);
    relay.hub.wait_received(&relay.primary.flush_lsn());
    let standby = relay.streaming_standby("standby");
    // One begins far behind the memory.
    let start = ["--no-sync"];
    let mut receive = ReceiveWal::start(&relay.hub, "received", &start, &relay.scratch);
    receive.wait_receiving(&relay.primary);
    relay.primary.psql("create table t as select generate_series(1, 20000) n");
    relay.primary.write_wal(8);
    standby.wait_sql("select count(*) from t", "20000");
    let ssl = "select count(*) from pg_stat_ssl \
               where ssl and pid in (select pid from pg_stat_replication)";
    assert_eq!(relay.hub.psql(ssl), "2");
    let paths = "select sum(tls_bytes) > 8000000, sum(sendfile_bytes), sum(zerocopy_bytes) \
                 from walhub.core_stats";
    assert_eq!(relay.hub.psql(paths), "t|0|0");
    relay.primary.switch_wal(2);
    receive.finish_at(&relay.primary.finish_segment());
    let end = relay.primary.current_segment();
    assert_equal_segments(&relay.primary.pg_wal(), receive.dir(), &end, 8);
}

#[test]
fn a_session_in_sql_moves_much_both_ways() {
    let scratch = Scratch::new();
    let issued = server_certificate(&Authority::new(&scratch, "authority"));
    let hub = with_tls(Hub::named("hub"), &issued.certificate, &issued.key).start(&scratch);
    let conninfo = format!("{} sslmode=require", hub.endpoint().database());
    let large = "x".repeat(100_000);
    let answer = run_psql_ok(&conninfo, &["-c", &format!("select '{large}'")]);
    assert_eq!(answer.len(), large.len());
}
