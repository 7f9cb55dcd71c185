//! The title needs a process with one thread, which the usual test runner does not give.

use std::process::Command;

use walhub_engine::process_title::ProcessTitle;

/// Set for the process that takes a title.
const CHILD: &str = "WALHUB_TEST_TITLE";

fn main() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    // What a test runner asks before it runs anything.
    if std::env::args().any(|arg| arg == "--list") {
        if !std::env::args().any(|arg| arg == "--ignored") {
            println!("process_title: test");
        }
        return;
    }
    let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
    command.args(["first", "second argument"]).env(CHILD, "value");
    command.env("WALHUB_TEST_PADDING", "x".repeat(500));
    let status = command.status().expect("this program runs");
    assert!(status.success(), "{status}");
    println!("process_title ... ok");
}

/// As `ps` reads it: up to the NULs that fill the rest.
fn shown() -> String {
    let bytes = std::fs::read("/proc/self/cmdline").expect("a process sees its own");
    let text = String::from_utf8(bytes).expect("titles are UTF-8");
    text.trim_end_matches('\0').to_owned()
}

fn child() {
    let mut title = ProcessTitle::init();
    assert!(title.is_available());
    assert!(shown().ends_with("first\0second argument"), "init shows nothing yet");

    title.set("walhub: short");
    assert_eq!(shown(), "walhub: short");
    let long = format!("walhub: {}", "long ".repeat(70));
    title.set(&long);
    assert_eq!(shown(), long);
    title.set(&"x".repeat(100_000));
    assert!(shown().len() > 500, "{}", shown().len());
    title.set("walhub: standby streaming 0/6014708, 64 standbys");
    assert_eq!(shown(), "walhub: standby streaming 0/6014708, 64 standbys");

    let arguments: Vec<_> = std::env::args().skip(1).collect();
    assert_eq!(arguments, ["first", "second argument"]);
    assert_eq!(std::env::var(CHILD).as_deref(), Ok("value"));
    assert_eq!(std::env::vars().filter(|(name, _)| name == "WALHUB_TEST_PADDING").count(), 1);
    // Children inherit the moved environment.
    let inherited = Command::new("/bin/sh").args(["-c", "echo $WALHUB_TEST_TITLE"]).output();
    assert_eq!(inherited.expect("there is a shell").stdout, b"value\n");

    let thread = std::thread::spawn(|| ProcessTitle::init().is_available());
    assert!(!thread.join().expect("the thread ends"), "only before other threads");
}
