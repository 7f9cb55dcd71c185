//! The command as a user meets it: exit codes and words.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};

fn walhub(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_walhub"));
    command.args(args).env_remove("WALHUB_DATA").env("TZ", "UTC").stdin(Stdio::null());
    command
}

fn run(args: &[&str]) -> Output {
    walhub(args).output().unwrap()
}

/// Log lines without their prefix.
fn lines(output: &Output) -> Vec<String> {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.lines()
        .map(|line| line.split_once("] ").map_or(line, |(_, rest)| rest).to_owned())
        .collect()
}

#[test]
fn a_wrong_setting_of_the_command_line_is_fatal() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("hub");
    let dir = dir.to_str().unwrap();
    for (setting, want) in [
        (
            "port=70000",
            vec!["FATAL:  70000 is outside the valid range for parameter \"port\" (1 .. 65535)"],
        ),
        (
            "wal_keep_sise=1",
            vec![
                "FATAL:  unrecognized configuration parameter \"wal_keep_sise\"",
                "HINT:  Perhaps you meant \"wal_keep_size\".",
            ],
        ),
        (
            "wal_keep_size=1gb",
            vec![
                "FATAL:  invalid value for parameter \"wal_keep_size\": \"1gb\"",
                "HINT:  Valid units for this parameter are \"B\", \"kB\", \"MB\", \"GB\", and \"TB\".",
            ],
        ),
    ] {
        let output = run(&["serve", "-D", dir, "-c", setting]);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(lines(&output), want);
    }
    assert!(!Path::new(dir).exists(), "a server that cannot start makes nothing");
}

#[test]
fn every_error_of_the_file_is_logged_before_the_end() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("my.toml");
    fs::write(&file, "port = 'abc'\nshared_buffers = '1GB'\n").unwrap();
    let file = file.to_str().unwrap();
    let output = run(&["serve", "-D", root.path().to_str().unwrap(), "--config", file]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        lines(&output),
        [
            format!(
                "LOG:  invalid value for parameter \"port\": \"abc\" in file \"{file}\" line 1"
            ),
            format!(
                "LOG:  unrecognized configuration parameter \"shared_buffers\" in file \"{file}\" line 2"
            ),
            "DETAIL:  PostgreSQL has this parameter, but walhub does not use it.".to_owned(),
            "HINT:  Remove it from walhub's configuration.".to_owned(),
            format!("FATAL:  configuration file \"{file}\" contains errors"),
        ]
    );
}

#[test]
fn a_data_directory_of_postgresql_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("pg");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(dir.join("PG_VERSION"), "15\n").unwrap();
    let output = run(&["serve", "-D", dir.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let dir = fs::canonicalize(&dir).unwrap();
    assert_eq!(
        lines(&output)[0],
        format!("FATAL:  directory \"{}\" is a PostgreSQL data directory", dir.display())
    );
}

#[test]
fn json_is_used_as_soon_as_the_settings_are_known() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let dir = root.path().to_str().unwrap();
    let output = run(&["serve", "-D", dir, "-c", "log_destination=json", "-c", "log_timezone=UTC"]);
    assert_eq!(output.status.code(), Some(1));
    let line: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(line["error_severity"], "FATAL");
    assert_eq!(line["detail"], "Permissions should be u=rwx (0700).");
    assert!(line["timestamp"].as_str().unwrap().ends_with(" UTC"));
}

#[test]
fn a_log_that_cannot_be_written_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = walhub(&["serve", "-D", root.path().to_str().unwrap(), "-c", "port=x"]);
    assert_eq!(command.stderr(full).status().unwrap().code(), Some(1));
}

#[test]
fn status_stop_and_reload_without_a_server_answer_as_pg_ctl() {
    let root = tempfile::tempdir().unwrap();
    let missing = root.path().join("none");
    let missing = missing.to_str().unwrap();
    for (command, code) in [("status", 4), ("stop", 1), ("reload", 1)] {
        let output = run(&[command, "-D", missing]);
        assert_eq!(output.status.code(), Some(code), "{command}");
        assert_eq!(lines(&output), [format!("walhub: directory \"{missing}\" does not exist")]);
    }
    let dir = root.path().join("hub");
    drop(walhub::datadir::DataDir::open_or_create(&dir).unwrap());
    let output = walhub(&["status"]).env("WALHUB_DATA", &dir).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"walhub: no server running\n");
    let output = run(&["stop", "-m", "smart", "-D", dir.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let file = dir.join("walhub.pid");
    assert_eq!(
        lines(&output),
        [
            format!("walhub: PID file \"{}\" does not exist", file.display()),
            "Is server running?".into()
        ]
    );
}

#[test]
fn wrong_usage_ends_with_two() {
    for args in
        [&["serve"][..], &["stop", "-D", "d", "-m", "gentle"], &["launch"], &[], &["status"]]
    {
        let output = run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(!output.stderr.is_empty());
    }
    let output = run(&["status"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("environment variable WALHUB_DATA unset"), "{text}");
}

#[test]
fn version_and_settings_are_printed() {
    let output = run(&["--version"]);
    assert_eq!(output.stdout, format!("walhub {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
    let output = run(&["settings"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("| setting | default |"), "{text}");
    assert!(text.contains("| `wal_keep_size` | `0` |"), "{text}");
}

#[test]
fn tune_checks_applies_and_undoes_a_tree() {
    let root = tempfile::tempdir().unwrap();
    let knob = root.path().join("proc/sys/vm/swappiness");
    fs::create_dir_all(knob.parent().unwrap()).unwrap();
    fs::write(&knob, "60\n").unwrap();
    let tree = root.path().to_str().unwrap();
    let tune = |args: &[&str]| {
        let all: Vec<_> = ["tune"].iter().chain(args).chain(&["--root", tree]).copied().collect();
        let output = run(&all);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = tune(&["check", "--profile", "cloud-vm"]);
    assert_eq!(code, Some(1));
    assert!(text.contains("differs  vm.swappiness"), "{text}");
    let (code, text) = tune(&["check", "--profile", "cloud-vm", "--json"]);
    assert_eq!(code, Some(1));
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["holds"], false);
    assert!(report["rows"].as_array().unwrap().iter().any(|row| row["name"] == "vm.swappiness"
        && row["now"] == "60"
        && row["wanted"] == "10"
        && row["state"] == "differs"));
    let (code, text) = tune(&["apply", "--profile", "cloud-vm", "--dry-run"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("would set /proc/sys/vm/swappiness: 60 -> 10\n"), "{text}");
    assert_eq!(fs::read_to_string(&knob).unwrap(), "60\n");
    assert_eq!(tune(&["apply", "--profile", "cloud-vm"]).0, Some(0));
    assert_eq!(fs::read_to_string(&knob).unwrap(), "10\n");
    assert_eq!(tune(&["check", "--profile", "cloud-vm"]).0, Some(0));
    let output = run(&["tune", "apply", "--profile", "laptop", "--root", tree]);
    assert_eq!(output.status.code(), Some(1));
    assert!(lines(&output)[0].contains("profile \"cloud-vm\" is applied"), "{output:?}");
    let (code, text) = tune(&["undo"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("restore /proc/sys/vm/swappiness: 10 -> 60\n"), "{text}");
    assert_eq!(fs::read_to_string(&knob).unwrap(), "60\n");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing else is left");
    assert_eq!(tune(&["check", "--profile", "mainframe"]).0, Some(2));
}

#[test]
fn a_killed_apply_is_undone() {
    let root = tempfile::tempdir().unwrap();
    let place = |path: &str| root.path().join(path);
    let tree = root.path().to_str().unwrap();
    let (knob, directory) = (place("proc/sys/vm/swappiness"), place("etc/sysctl.d"));
    for directory in [knob.parent().unwrap(), &directory, &place("var/lib/walhub")] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::write(&knob, "60\n").unwrap();
    // Opening it waits for a reader, who never comes: so far the apply gets, and no further.
    let pipe = directory.join("90-walhub.conf.tmp");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let mut apply = walhub(&["tune", "apply", "--profile", "cloud-vm", "--root", tree]);
    let mut child = apply.stdout(Stdio::null()).spawn().unwrap();
    let journal = place("var/lib/walhub/tune-undo.json");
    let announced =
        || fs::read_to_string(&journal).is_ok_and(|text| text.contains("sysctl.d/90-walhub.conf"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while !announced() {
        assert!(child.try_wait().unwrap().is_none(), "the apply came to an end");
        assert!(Instant::now() < deadline, "the apply announces nothing");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read_to_string(&knob).unwrap(), "10\n", "one half is done");
    let output = run(&["tune", "undo", "--dry-run", "--root", tree]);
    assert_eq!(lines(&output).len(), 0);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("would restore /proc/sys/vm/swappiness: 10 -> 60\n"), "{text}");
    assert!(pipe.exists() && journal.exists(), "a dry run changes nothing");
    assert_eq!(run(&["tune", "undo", "--root", tree]).status.code(), Some(0));
    assert_eq!(fs::read_to_string(&knob).unwrap(), "60\n");
    assert!(!pipe.exists() && !journal.exists());
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

/// Knobs of a network namespace of its own, with /etc and /var/lib that nobody else sees: real ones,
/// which change nothing for the machine.
#[test]
fn apply_and_undo_set_real_knobs() {
    let script = r#"
        set -e
        for directory in /etc /var/lib /run; do mount -t tmpfs none $directory; done
        cd /proc/sys/net
        knobs='core/somaxconn ipv4/tcp_slow_start_after_idle ipv4/tcp_wmem ipv4/tcp_sack'
        echo 128 >core/somaxconn
        echo 1 >ipv4/tcp_slow_start_after_idle
        echo 4096 16384 1048576 >ipv4/tcp_wmem
        tune() {
            code=0
            "$WALHUB" tune "$@" >/run/out || code=$?
            echo "$1: $code"
        }
        tune check --profile container
        tune apply --profile container
        cat $knobs
        tune check --profile container
        grep '^net.core.somaxconn' /etc/sysctl.d/90-walhub.conf
        tune undo
        cat $knobs
        find /etc /var/lib -mindepth 1
    "#;
    let mut unshare = Command::new("unshare");
    // Others than root may do this in a user namespace, where it is allowed.
    if !rustix::process::geteuid().is_root() {
        unshare.arg("--map-root-user");
    }
    let output = unshare
        .args(["--net", "--mount", "sh", "-c", script])
        .env("WALHUB", env!("CARGO_BIN_EXE_walhub"))
        .output()
        .expect("unshare of util-linux");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let expected = "check: 1\napply: 0\n4096\n0\n4096\t16384\t16777216\n1\ncheck: 0\n\
                    net.core.somaxconn = 4096\nundo: 0\n128\n1\n4096\t16384\t1048576\n1\n";
    assert_eq!(text, expected, "{output:?}");
}

#[test]
fn a_tree_that_is_not_there_is_refused() {
    for command in ["check", "apply", "undo"] {
        let output = run(&["tune", command, "--root", "/no/such/tree"]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        assert_eq!(lines(&output), ["walhub: \"/no/such/tree\" is not a directory"]);
    }
}

#[test]
fn tune_without_a_profile_recognises_the_machine() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(".dockerenv"), "").unwrap();
    let output = run(&["tune", "check", "--root", root.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Profile container (/.dockerenv exists): "), "{text}");
}

#[test]
fn doctor_tells_the_same_in_both_forms() {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let dir = root.path().to_str().unwrap();
    let output = run(&["doctor", "-D", dir, "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let code = match report["worst"].as_str().unwrap() {
        "ok" | "advice" => 0,
        "warning" => 1,
        "failure" => 3,
        other => panic!("{other}"),
    };
    assert_eq!(output.status.code(), Some(code));
    let text = String::from_utf8(run(&["doctor", "-D", dir]).stdout).unwrap();
    for finding in report["findings"].as_array().unwrap() {
        assert!(text.contains(finding["check"].as_str().unwrap()), "{text}");
        let is_ok = finding["level"] == "ok";
        assert_eq!(finding["costs"].is_string(), !is_ok, "{finding}");
        assert_eq!(finding["mend"].is_string(), !is_ok, "{finding}");
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0, "doctor leaves nothing behind");
}

/// A server that does not outlive its test.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already when the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_tells_its_service_manager_when_it_is_ready_and_when_it_stops() {
    let root = tempfile::tempdir().unwrap();
    let socket = root.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let heard = || {
        let mut buffer = [0; 64];
        let count = loop {
            match manager.recv(&mut buffer) {
                // A receive with a timeout is not restarted after a signal.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                received => break received.unwrap(),
            }
        };
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    let dir = root.path().join("hub");
    let mut command = walhub(&["serve", "-D", dir.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut server = Server(command.spawn().unwrap());
    assert_eq!(heard(), "READY=1");
    assert_eq!(heard(), "WATCHDOG=1");
    assert_eq!(heard(), "WATCHDOG=1");
    let stopped = run(&["stop", "-D", dir.to_str().unwrap()]);
    assert!(stopped.status.success(), "{stopped:?}");
    let last = std::iter::repeat_with(heard).find(|assignment| assignment != "WATCHDOG=1");
    assert_eq!(last.unwrap(), "STOPPING=1");
    assert!(server.0.wait().unwrap().success());
}
