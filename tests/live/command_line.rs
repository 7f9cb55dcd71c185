//! `walhub serve | status | stop | reload`: what is refused, and with which words.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::process::Signal;
use walhub_tests::client::{SqlServer, run_psql};
use walhub_tests::hub::{Hub, walhub};
use walhub_tests::postgres::{Postgres, StopMode, program};
use walhub_tests::process::{command_as_postgres, run_ok, said, send_signal};
use walhub_tests::scratch::Scratch;
use walhub_tests::topology::Relay;

/// What `walhub serve` says when it refuses to start.
#[track_caller]
fn refusal(hub: &Hub) -> String {
    let output = walhub(hub.serve_arguments());
    let text = said(&output);
    // 124 is a server that went on until it was killed.
    let code = output.status.code();
    assert!(!output.status.success() && code != Some(124), "{}: {text}", output.status);
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[track_caller]
fn setting_is_refused(name: &str, value: &str, wanted: &[&str]) {
    let scratch = Scratch::new();
    let upstream = "host=127.0.0.1 port=1";
    let hub = Hub::named("hub").upstream(upstream).set(name, value).build(&scratch);
    let text = refusal(&hub);
    for want in wanted {
        assert!(text.contains(want), "{want:?} is not in: {text}");
    }
    assert!(!hub.data().join("pg_wal").exists(), "refused, and yet a data directory was made");
}

#[test]
fn unknown_setting_names_the_nearest_known_one() {
    let wanted = ["unrecognized configuration parameter \"wal_keep_sise\"", "wal_keep_size"];
    setting_is_refused("wal_keep_sise", "1GB", &wanted);
}

#[test]
fn bad_unit_names_the_valid_units() {
    let wanted = [
        "invalid value for parameter \"wal_sender_timeout\": \"10 parsecs\"",
        "Valid units for this parameter are \"us\", \"ms\", \"s\", \"min\", \"h\", and \"d\".",
    ];
    setting_is_refused("wal_sender_timeout", "10 parsecs", &wanted);
}

#[test]
fn value_out_of_range_names_the_range() {
    let wanted = ["70000 is outside the valid range for parameter \"port\" (1 .. 65535)"];
    setting_is_refused("port", "70000", &wanted);
}

#[test]
fn value_that_is_no_boolean_is_refused() {
    let wanted = ["parameter \"hot_standby_feedback\" requires a Boolean value"];
    setting_is_refused("hot_standby_feedback", "perhaps", &wanted);
}

#[test]
fn unknown_key_of_the_connection_string_is_refused() {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").upstream("host=127.0.0.1 hots=127.0.0.2").build(&scratch);
    let text = refusal(&hub);
    assert!(text.contains("invalid connection option \"hots\""), "{text}");
}

#[test]
fn data_directory_is_created_for_its_owner_alone() {
    let relay = Relay::start();
    let mode = fs::metadata(relay.hub.data()).expect("it").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(relay.hub.pg_wal().is_dir());
}

#[test]
fn data_directory_that_others_may_read_is_refused() {
    let scratch = Scratch::new();
    let upstream = "host=127.0.0.1 port=1";
    let hub = Hub::named("hub").upstream(upstream).build(&scratch);
    for mode in [0o755, 0o770, 0o704] {
        fs::create_dir_all(hub.data()).expect("a directory");
        fs::set_permissions(hub.data(), Permissions::from_mode(mode)).expect("chmod");
        let text = refusal(&hub);
        assert!(text.contains("has invalid permissions"), "{mode:o}: {text}");
        assert!(text.contains(&hub.data().display().to_string()), "{mode:o}: {text}");
    }
}

#[test]
fn data_directory_of_a_running_hub_is_refused() {
    let mut relay = Relay::start();
    let upstream = relay.primary.endpoint().conninfo("second");
    let data = relay.hub.data().to_owned();
    let second = Hub::named("second").data(data).upstream(upstream).build(&relay.scratch);
    let text = refusal(&second);
    assert!(text.contains("already exists"), "{text}");
    assert!(text.contains(&format!("PID {}", relay.hub.pid())), "{text}");
    // The first one did not notice; and a killed hub's lock is no obstacle.
    assert_eq!(relay.hub.psql("select pg_is_in_recovery()"), "t");
    relay.hub.kill9();
    relay.hub.start();
    relay.primary.wait_streaming("hub");
}

#[test]
fn data_directory_that_is_something_else_is_refused() {
    let scratch = Scratch::new();
    let hub = Hub::named("hub").upstream("host=127.0.0.1 port=1").build(&scratch);
    fs::write(hub.data(), "a file").expect("a file");
    let text = refusal(&hub);
    assert!(text.contains(&hub.data().display().to_string()), "{text}");
}

/// Starts the hub on WAL that is not its own: it must say so, whether or not it then ends.
#[track_caller]
fn upstream_is_refused(hub: &mut Hub, wanted: &[&str]) {
    let mark = hub.log().mark();
    hub.spawn();
    for want in wanted {
        hub.log().wait_for(mark, want);
    }
    assert_eq!(hub.log().count(mark, "started streaming"), 0);
}

#[test]
fn upstream_with_another_system_identifier_is_refused() {
    let mut relay = Relay::start();
    assert!(relay.hub.stop(StopMode::Fast).success());
    let other = Postgres::primary("other").start(&relay.scratch);
    let identifier =
        |server: &Postgres| server.psql("select system_identifier from pg_control_system()");
    relay.hub.set_upstream(other.endpoint().conninfo("hub"));
    let wanted = [
        "database system identifier differs between the primary and standby",
        &format!("The primary's identifier is {}", identifier(&other)),
        &format!("the standby's identifier is {}", identifier(&relay.primary)),
    ];
    upstream_is_refused(&mut relay.hub, &wanted);
}

#[test]
fn upstream_with_another_segment_size_is_refused() {
    let mut relay = Relay::start();
    assert!(relay.hub.stop(StopMode::Fast).success());
    assert!(relay.primary.stop(StopMode::Fast).success());
    let mut reset = command_as_postgres(program("pg_resetwal"));
    run_ok(reset.arg("--wal-segsize=1").arg("-D").arg(relay.primary.data()));
    relay.primary.start();
    upstream_is_refused(&mut relay.hub, &["egment size"]);
}

fn arguments(command: &str, data: &Path, more: &[&str]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![command.into(), "-D".into(), data.into()];
    arguments.extend(more.iter().map(OsString::from));
    arguments
}

#[test]
fn status_answers_as_pg_ctl() {
    let mut relay = Relay::start();
    let output = walhub(arguments("status", relay.hub.data(), &[]));
    let text = said(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains(&format!("(PID: {})", relay.hub.pid())), "{text}");
    relay.hub.kill9();
    let output = walhub(arguments("status", relay.hub.data(), &[]));
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("no server running"), "{}", said(&output));
    let output = walhub(arguments("status", &relay.scratch.path("nothing"), &[]));
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}

#[test]
fn stop_stops_in_every_mode() {
    let mut relay = Relay::start();
    for mode in [StopMode::Fast, StopMode::Smart, StopMode::Immediate] {
        let output = walhub(arguments("stop", relay.hub.data(), &["-m", mode.name()]));
        assert!(output.status.success(), "{mode:?}: {}", said(&output));
        assert!(said(&output).contains("server stopped"), "{mode:?}: {}", said(&output));
        // The command waits for the end, so there is nothing left to wait for.
        relay.hub.wait_exit();
        relay.hub.start();
        relay.primary.wait_streaming("hub");
    }
    // Fast is the default.
    let output = walhub(arguments("stop", relay.hub.data(), &[]));
    assert!(output.status.success(), "{}", said(&output));
    assert!(relay.hub.wait_exit().success());
    let output = walhub(arguments("stop", relay.hub.data(), &[]));
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let output = walhub(arguments("stop", relay.hub.data(), &["-m", "gently"]));
    assert!(!output.status.success(), "{}", said(&output));
}

/// walhub's own case: its configuration file is TOML.
#[test]
fn reload_reads_the_configuration_file_again() {
    let relay = Relay::start();
    assert_eq!(relay.hub.psql("show wal_sender_timeout"), "1min");
    let file = relay.hub.data().join("walhub.toml");
    fs::write(&file, "wal_sender_timeout = \"42s\"\n").expect("walhub.toml");
    let mark = relay.hub.log().mark();
    let output = walhub(arguments("reload", relay.hub.data(), &[]));
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("server signaled"), "{}", said(&output));
    relay.hub.log().wait_for(mark, "received SIGHUP, reloading configuration files");
    relay.hub.wait_sql("show wal_sender_timeout", "42s");

    // A mistake in the file changes nothing, and is named with its place.
    fs::write(&file, "\nwal_sender_timeout = \"soon\"\n").expect("walhub.toml");
    let mark = relay.hub.log().mark();
    send_signal(relay.hub.pid(), Signal::HUP);
    let line = relay.hub.log().wait_for(mark, "\"soon\"");
    assert!(line.contains("wal_sender_timeout"), "{line}");
    relay.hub.log().wait_for(mark, "walhub.toml");
    assert_eq!(relay.hub.psql("show wal_sender_timeout"), "42s");

    // What the command line says wins.
    fs::write(&file, "wal_keep_size = \"1GB\"\nwal_sender_timeout = \"43s\"\n").expect("it");
    send_signal(relay.hub.pid(), Signal::HUP);
    relay.hub.wait_sql("show wal_sender_timeout", "43s");
    assert_eq!(relay.hub.psql("show wal_keep_size"), "4GB");
}

/// walhub's own case: `--config`.
#[test]
fn configuration_file_can_be_elsewhere() {
    let scratch = Scratch::new();
    let primary = Postgres::primary("primary").start(&scratch);
    let file = scratch.file("elsewhere.toml", "wal_sender_timeout = \"41s\"\n");
    let hub = Hub::named("hub").upstream(primary.endpoint().conninfo("hub")).config_file(file);
    let hub = hub.start(&scratch);
    primary.wait_streaming("hub");
    assert_eq!(hub.psql("show wal_sender_timeout"), "41s");
}

/// walhub's own case: JSON has a shape of its own.
#[test]
fn log_lines_can_be_json() {
    let relay = Relay::with(|primary| primary, |hub| hub.set("log_destination", "json"));
    let log = relay.hub.log();
    let line = log.wait_for(log.beginning(), "started streaming WAL from primary at ");
    let value: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
    assert_eq!(value["error_severity"], "LOG", "{line}");
    let message = value["message"].as_str().expect("a message");
    assert!(message.ends_with("on timeline 1"), "{line}");
}

/// The service asks the operating system who comes by Unix socket, and everybody else for a password. A peer who is no
/// role of that name is refused, and a line that is there already stays.
#[test]
fn serve_says_what_a_first_pg_hba_conf_asks_for() {
    let scratch = Scratch::new();
    let sockets = scratch.path("sockets");
    fs::create_dir(&sockets).expect("a directory");
    let hub = Hub::named("own").set("unix_socket_directories", sockets.display().to_string());
    let mut hub = hub.build(&scratch);
    let arguments = |hub: &Hub, method: &str| {
        let mut arguments = hub.serve_arguments();
        let methods = ["--auth-local", method, "--auth-host", "scram-sha-256"];
        arguments.extend(methods.map(OsString::from));
        arguments
    };
    hub.spawn_with(arguments(&hub, "peer"));
    hub.wait_ready();
    let by_socket = format!("host={} port={} dbname=x", sockets.display(), hub.endpoint().port);
    let by_tcp = hub.endpoint().database();
    for (database, refusal) in [
        (format!("{by_socket} user=postgres"), "Peer authentication failed for user \"postgres\""),
        (by_tcp, "no password supplied"),
    ] {
        let output = run_psql(&database, &["-w", "-c", "select 1"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(refusal), "{said}");
    }
    let first = fs::read(hub.data().join("pg_hba.conf")).expect("a file");
    assert_eq!(hub.log().count(hub.log().beginning(), "enabling \"trust\""), 0);
    hub.stop(StopMode::Fast);
    hub.spawn_with(arguments(&hub, "trust"));
    hub.wait_ready();
    assert_eq!(fs::read(hub.data().join("pg_hba.conf")).expect("a file"), first);
}
