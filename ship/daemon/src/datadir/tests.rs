//! Data directories: fresh, foreign, unsafe, in use, left by a crash.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn private_dir() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap()
}

fn refusal(path: &Path) -> Report {
    *DataDir::open_or_create(path).unwrap_err()
}

#[test]
fn a_missing_directory_is_made_with_its_parents_and_reopened() {
    let root = private_dir();
    let path = root.path().join("a/b/hub");
    let dir = DataDir::open_or_create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    for name in SUBDIRECTORIES {
        assert_eq!(fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777, 0o700);
    }
    assert_eq!(fs::metadata(path.join(PID_FILE)).unwrap().permissions().mode() & 0o777, 0o600);
    fs::write(dir.pg_wal().join("x"), "kept").unwrap();
    drop(dir);
    assert!(!path.join(PID_FILE).exists());
    let dir = DataDir::open_or_create(&path).unwrap();
    assert_eq!(fs::read_to_string(dir.pg_wal().join("x")).unwrap(), "kept");
}

#[test]
fn a_directory_that_others_may_read_is_refused() {
    for mode in [0o750, 0o755, 0o701, 0o740] {
        let root = private_dir();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(mode)).unwrap();
        let report = refusal(root.path());
        assert_eq!(
            report.message,
            format!("data directory \"{}\" has invalid permissions", root.path().display())
        );
        assert_eq!(report.detail.as_deref(), Some("Permissions should be u=rwx (0700)."));
        assert!(fs::read_dir(root.path()).unwrap().next().is_none(), "nothing may be left in it");
    }
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let root = private_dir();
    let metadata = fs::metadata(root.path()).unwrap();
    let report = check_metadata(root.path(), &metadata, metadata.uid() + 1).unwrap_err();
    assert!(report.message.ends_with("has wrong ownership"), "{}", report.message);
    assert!(check_metadata(root.path(), &metadata, metadata.uid()).is_ok());
}

#[test]
fn a_directory_of_someone_else_is_refused_and_untouched() {
    for (name, message) in [
        ("PG_VERSION", "is a PostgreSQL data directory"),
        ("lost+found", "exists but is not empty"),
        ("thesis.tex", "exists but is not empty"),
        ("walhub.pid", "exists but is not empty"),
    ] {
        let root = private_dir();
        fs::write(root.path().join(name), "").unwrap();
        let report = refusal(root.path());
        assert!(report.message.ends_with(message), "{}", report.message);
        assert!(report.hint.is_some());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}

#[test]
fn a_user_may_put_the_configuration_there_first() {
    let root = private_dir();
    fs::write(root.path().join(CONFIG_FILE), "").unwrap();
    fs::write(root.path().join("WALHUB_VERSION.tmp"), "").unwrap();
    assert!(DataDir::open_or_create(root.path()).is_ok());
}

#[test]
fn another_layout_is_refused() {
    let root = private_dir();
    fs::write(root.path().join(MARKER), "99\n").unwrap();
    let report = refusal(root.path());
    assert!(report.detail.unwrap().contains("layout version 99"));
}

#[test]
fn a_path_that_is_a_file_is_refused() {
    let root = private_dir();
    let path = root.path().join("file");
    fs::write(&path, "").unwrap();
    let message = refusal(&path).message;
    assert_eq!(message, format!("could not create directory \"{}\": File exists", path.display()));
}

#[test]
fn a_second_server_is_refused_and_told_who_has_it() {
    let root = private_dir();
    let first = DataDir::open_or_create(root.path()).unwrap();
    let report = refusal(root.path());
    assert_eq!(report.message, "lock file \"walhub.pid\" already exists");
    assert_eq!(
        report.hint.unwrap(),
        format!(
            "Is another walhub (PID {}) running in data directory \"{}\"?",
            std::process::id(),
            first.path().display()
        )
    );
    // The refused one must not have taken the file away.
    assert!(PidFile::of_running_server(root.path()).unwrap().is_some());
}

#[test]
fn a_file_left_by_a_crash_is_taken_over() {
    let root = private_dir();
    drop(DataDir::open_or_create(root.path()).unwrap());
    // The id of a process that lives, but that is not walhub's.
    fs::write(root.path().join(PID_FILE), format!("{}\n/a much longer text\n", std::process::id()))
        .unwrap();
    assert_eq!(PidFile::of_running_server(root.path()).unwrap(), None);
    let dir = DataDir::open_or_create(root.path()).unwrap();
    let lines = PidFile::of_running_server(root.path()).unwrap().unwrap();
    assert_eq!(lines.data_dir, dir.path());
}

#[test]
fn the_pid_file_tells_what_status_needs() {
    let root = private_dir();
    let dir = DataDir::open_or_create(root.path()).unwrap();
    dir.pid_file().set_listening(5433, "127.0.0.1", "/run").unwrap();
    dir.pid_file().set_status(Status::Standby).unwrap();
    let lines = PidFile::of_running_server(root.path()).unwrap().unwrap();
    assert_eq!(lines.pid, std::process::id());
    assert_eq!((lines.port, lines.status), (5433, Status::Standby));
    let text = fs::read_to_string(root.path().join(PID_FILE)).unwrap();
    assert_eq!(
        text,
        format!(
            "{}\n{}\n{}\n5433\n/run\n127.0.0.1\nstandby \n",
            lines.pid,
            dir.path().display(),
            lines.start_time
        )
    );
    // Shorter than before, and read back whole.
    dir.pid_file().set_listening(1, "", "").unwrap();
    let lines = PidFile::of_running_server(root.path()).unwrap().unwrap();
    assert_eq!((lines.port, lines.status, lines.socket_dir.as_str()), (1, Status::Standby, ""));
    assert_eq!(PidFileLines::parse("12\n").unwrap().status, Status::Starting);
    assert_eq!(PidFileLines::parse("\n"), None);
}

#[test]
fn looking_at_a_directory_does_not_stop_a_server_from_starting() {
    let root = private_dir();
    drop(DataDir::open_or_create(root.path()).unwrap());
    let looked_at = File::create(root.path().join(PID_FILE)).unwrap();
    looked_at.lock_shared().unwrap();
    let server = std::thread::scope(|scope| {
        let server = scope.spawn(|| DataDir::open_or_create(root.path()).map(drop));
        drop(looked_at);
        server.join().unwrap()
    });
    assert!(server.is_ok());
}

#[test]
fn a_second_server_is_refused_when_the_pid_file_was_removed() {
    let root = private_dir();
    let first = DataDir::open_or_create(root.path()).unwrap();
    fs::remove_file(root.path().join(PID_FILE)).unwrap();
    let report = refusal(root.path());
    let shown = first.path().display();
    assert_eq!(
        report.message,
        format!("could not lock data directory \"{shown}\": a server uses it")
    );
    assert_eq!(report.sqlstate, SqlState::LOCK_FILE_EXISTS);
    assert!(report.hint.unwrap().contains("Terminate any old server processes"));
    // Nor does it help to take the marker away.
    fs::remove_file(root.path().join(MARKER)).unwrap();
    assert!(refusal(root.path()).message.ends_with("exists but is not empty"));
    fs::write(root.path().join(MARKER), "1\n").unwrap();
    assert_eq!(refusal(root.path()).sqlstate, SqlState::LOCK_FILE_EXISTS);
    drop(first);
    drop(DataDir::open_or_create(root.path()).unwrap());
}

#[test]
fn where_a_directory_cannot_be_locked_its_marker_is() {
    let root = private_dir();
    drop(DataDir::open_or_create(root.path()).unwrap());
    let elsewhere = File::open(root.path().join(MARKER)).unwrap();
    elsewhere.lock().unwrap();
    assert_eq!(refusal(root.path()).sqlstate, SqlState::LOCK_FILE_EXISTS);
}

#[test]
fn a_directory_that_moved_takes_its_lock_along() {
    let root = private_dir();
    let (path, moved) = (root.path().join("hub"), root.path().join("moved"));
    let first = DataDir::open_or_create(&path).unwrap();
    fs::rename(&path, &moved).unwrap();
    let second = DataDir::open_or_create(&path).unwrap();
    assert_eq!(refusal(&moved).sqlstate, SqlState::LOCK_FILE_EXISTS);
    // The pid file at its path is another's now, and stays.
    drop(first);
    assert!(PidFile::of_running_server(&path).unwrap().is_some());
    drop(second);
    assert!(!path.join(PID_FILE).exists());
}

fn claim_of(dir: &DataDir) -> Claim {
    let lines = dir.pid_file().lines();
    Claim {
        path: dir.path().to_owned(),
        directory: dir.lock.inode().unwrap(),
        pg_wal: Inode::at(&dir.pg_wal()).unwrap().unwrap(),
        pid: lines.pid,
        start_time: lines.start_time,
    }
}

#[test]
fn a_server_whose_directory_or_pid_file_is_anothers_must_not_go_on() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 10] = [
        ("has been removed", |path| fs::remove_dir_all(path).unwrap()),
        ("has been removed", |path| fs::rename(path, path.with_extension("old")).unwrap()),
        ("has been replaced", |path| {
            fs::rename(path, path.with_extension("old")).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("has been removed", |path| fs::remove_dir_all(path.join("pg_wal")).unwrap()),
        ("has been replaced", |path| {
            fs::rename(path.join("pg_wal"), path.join("old")).unwrap();
            fs::create_dir(path.join("pg_wal")).unwrap();
        }),
        ("walhub.pid\" has been removed", |path| fs::remove_file(path.join(PID_FILE)).unwrap()),
        ("contains wrong PID: 1 instead of", |path| {
            fs::write(path.join(PID_FILE), "1\n").unwrap();
        }),
        ("contains wrong PID: 0 instead of", |path| {
            fs::write(path.join(PID_FILE), "").unwrap();
        }),
        ("is that of another server", |path| {
            let text = format!("{}\n{}\n12345\n", std::process::id(), path.display());
            fs::write(path.join(PID_FILE), text).unwrap();
        }),
        ("contains wrong PID: 0 instead of", |path| {
            fs::remove_file(path.join(PID_FILE)).unwrap();
            rustix::fs::mkfifoat(rustix::fs::CWD, path.join(PID_FILE), 0o600.into()).unwrap();
        }),
    ];
    for (want, change) in changes {
        let root = private_dir();
        let dir = DataDir::open_or_create(&root.path().join("hub")).unwrap();
        let claim = claim_of(&dir);
        assert_eq!(claim.violation().unwrap(), None);
        change(dir.path());
        let violation = claim.violation().unwrap().expect(want);
        assert!(violation.contains(want), "{violation}");
    }
}

#[test]
fn a_server_goes_on_when_its_pid_file_is_written_anew() {
    let root = private_dir();
    let dir = DataDir::open_or_create(root.path()).unwrap();
    let claim = claim_of(&dir);
    dir.pid_file().set_status(Status::Ready).unwrap();
    let text = fs::read(root.path().join(PID_FILE)).unwrap();
    fs::remove_file(root.path().join(PID_FILE)).unwrap();
    fs::write(root.path().join(PID_FILE), text).unwrap();
    assert_eq!(claim.violation().unwrap(), None);
}
