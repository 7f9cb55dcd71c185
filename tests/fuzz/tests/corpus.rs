//! Every input that fuzzing has found, and each of them damaged a little: nothing falls over.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use walhub_fuzz::{TARGETS, Target};

/// The inputs of a target.
fn inputs(name: &str) -> Vec<(String, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("corpus/{name}.tar.gz"));
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut archive = tar::Archive::new(GzDecoder::new(file));
    let entries = archive.entries().expect("an archive");
    let files = entries.map(|entry| entry.expect("an entry"));
    let files = files.filter(|entry| entry.header().entry_type().is_file());
    let read = |mut entry: tar::Entry<'_, _>| {
        let name = entry.path().expect("a name").display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        (name, content)
    };
    files.map(read).collect()
}

/// The input as it is, without its end, and with one bit of it flipped.
fn variants(input: &[u8]) -> [Vec<u8>; 3] {
    let half = input.len() / 2;
    let mut flipped = input.to_vec();
    if let Some(byte) = flipped.get_mut(half) {
        *byte ^= 1 << (input.len() % 8);
    }
    [input.to_vec(), input[..half].to_vec(), flipped]
}

fn run(name: &str, target: Target) {
    let inputs = inputs(name);
    assert!(!inputs.is_empty(), "no inputs of {name}");
    for (file, input) in inputs {
        // The name is printed with the panic, if there is one.
        println!("{name}: {file}");
        variants(&input).iter().for_each(|input| target(input));
    }
}

/// Every one of them runs as a test of its own.
macro_rules! each {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name), walhub_fuzz::target(stringify!($name)).expect("a target"));
            }
        )*

        #[test]
        fn no_target_is_left_out() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(tested.to_vec(), TARGETS.map(|(name, _)| name).to_vec());
        }
    };
}

each!(
    command conninfo console control_file decoder end_of_wal error_response frontend hba history passfile
    pid_file records sasl secret settings slot_file standby_names walreceiver walsender
);
