//! libFuzzer over the target that `WALHUB_FUZZ_TARGET` names.

#![no_main]

use std::sync::LazyLock;

use walhub_fuzz::Target;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("WALHUB_FUZZ_TARGET").expect("WALHUB_FUZZ_TARGET names a target");
    walhub_fuzz::target(&name).expect("WALHUB_FUZZ_TARGET is the name of one")
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| (*TARGET)(bytes));
