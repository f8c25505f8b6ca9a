//! The `taxiway` program.

use std::ffi::{OsString, c_int, c_long};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h: after how many milliseconds memory that was freed goes back to the system; never, below zero.
const PURGE_DELAY: c_int = 15;

#[allow(
    unsafe_code,
    reason = "the crate of the allocator offers its options only with a feature that also wants another crate"
)]
fn keep_memory() {
    unsafe extern "C" {
        fn mi_option_set(option: c_int, value: c_long);
    }
    // SAFETY: the function of that name and signature is part of the allocator, which is linked since it is the global one; it stores
    // the number, and may be called at any time.
    unsafe { mi_option_set(PURGE_DELAY, -1) }
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    if arguments.get(1).is_some_and(|command| command == "import") {
        // What an import frees it wants again at once. Given back meanwhile, each page of it has to be found and cleared anew: a fifth
        // of the time of an import. Servers keep the usual delay.
        keep_memory();
    }
    taxiway::cli::run(arguments)
}
