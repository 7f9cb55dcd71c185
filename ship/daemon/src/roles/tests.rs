//! A change that ends in each of its steps.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use walhub_proto::roles::statement::RoleOptions;

use walhub_proto::roles::BOOTSTRAP_SUPERUSER;

use super::*;

const ROOT: Actor = Actor { current: BOOTSTRAP_SUPERUSER, session: BOOTSTRAP_SUPERUSER };

/// Files of which one step fails, as when the process ends there: what it had begun to write is half there.
#[derive(Debug)]
struct FailingFiles {
    steps: AtomicUsize,
    failing: usize,
}

impl FailingFiles {
    fn new(failing: usize) -> Self {
        Self { steps: AtomicUsize::new(0), failing }
    }

    fn step(&self) -> io::Result<()> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        if step == self.failing { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Files for FailingFiles {
    fn write(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.step().inspect_err(|_| {
            fs::write(path, &content[..content.len() / 2]).unwrap();
        })?;
        OsFiles.write(path, content)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        OsFiles.sync(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step()?;
        OsFiles.rename(from, to)
    }
}

fn create_role(name: &str) -> RoleStatement {
    RoleStatement::Create { name: name.to_owned(), options: RoleOptions::default() }
}

fn change(store: &Arc<RoleStore>, statement: &RoleStatement) -> Result<Vec<Report>, Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.change(statement, ROOT, &Settled::default()))
}

fn names(roles: &Roles) -> Vec<String> {
    roles.iter().map(|role| role.name.clone()).filter(|name| !name.starts_with("pg_")).collect()
}

#[test]
fn a_change_outlives_the_server() {
    let dir = tempfile::tempdir().unwrap();
    let store = RoleStore::open(dir.path()).unwrap();
    assert_eq!(names(&store.current()), ["postgres"]);
    assert!(!dir.path().join(ROLES_FILE).exists(), "nothing has changed yet");
    change(&store, &create_role("a")).unwrap();
    change(&store, &create_role("b")).unwrap();
    let refused = change(&store, &create_role("b")).unwrap_err();
    assert_eq!((refused.sqlstate.0, &*refused.message), ("42710", "role \"b\" already exists"));
    let again = RoleStore::open(dir.path()).unwrap();
    assert_eq!(again.current(), store.current());
    assert_eq!(names(&again.current()), ["postgres", "a", "b"]);
}

/// Of write, fsync, rename and fsync of the directory.
#[test]
fn a_change_that_ends_in_any_step_leaves_the_old_or_the_new() {
    for failing in 0..=4 {
        let dir = tempfile::tempdir().unwrap();
        create(dir.path(), "root", None).unwrap();
        let before = RoleStore::open(dir.path()).unwrap().current();
        let files = Arc::new(FailingFiles::new(failing));
        let path = dir.path().join(ROLES_FILE);
        let store = RoleStore::of(path, Roles::clone(&before), files);
        let changed = change(&store, &create_role("a"));
        assert_eq!(changed.is_ok(), failing == 4, "step {failing}: {changed:?}");
        let after = RoleStore::open(dir.path()).unwrap().current();
        let want = if failing < 3 { vec!["root"] } else { vec!["root", "a"] };
        assert_eq!(names(&after), want, "step {failing}");
        // What the server goes on with is what is in the file.
        assert_eq!(store.current(), after, "step {failing}");
        if let Err(report) = changed {
            assert_eq!(report.sqlstate, SqlState::DISK_FULL);
            // What was left is in nobody's way.
            change(&store, &create_role("b")).unwrap();
            let again = RoleStore::open(dir.path()).unwrap().current();
            assert!(again.get("b").is_some(), "step {failing}");
        }
    }
}

#[test]
fn a_damaged_file_is_named_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), "root", Some("md5...".to_owned())).unwrap();
    let path = dir.path().join(ROLES_FILE);
    let content = fs::read_to_string(&path).unwrap();
    fs::write(&path, content.replace("login", "logon")).unwrap();
    let report = RoleStore::open(dir.path()).unwrap_err();
    assert_eq!((report.severity.as_str(), report.sqlstate.0), ("FATAL", "XX001"));
    assert!(report.message.contains("walhub.roles\" cannot be used: checksum mismatch"));
    assert!(report.hint.unwrap().starts_with("Put back the file from a copy."));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(RoleStore::open(dir.path()).unwrap_err().message.contains("it is not text"));
}

#[test]
fn the_file_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    create(dir.path(), "root", None).unwrap();
    let mode = fs::metadata(dir.path().join(ROLES_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn changes_are_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = RoleStore::open(dir.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (a, b, settled) = (create_role("a"), create_role("b"), Settled::default());
        let (first, second) =
            tokio::join!(store.change(&a, ROOT, &settled), store.change(&b, ROOT, &settled));
        assert!(first.is_ok() && second.is_ok());
    });
    assert_eq!(names(&RoleStore::open(dir.path()).unwrap().current()), ["postgres", "a", "b"]);
}
