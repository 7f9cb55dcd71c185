//! The simulator of whole hubs: production cores on a simulated disk and network, from a seed.
//!
//! `cargo test -p walhub-tests --test sim` runs the named scenarios and then seeds; see README.md.

mod answers;
mod clients;
mod disk;
mod driver;
mod hub;
mod io;
mod net;
mod plan;
mod preempt;
mod primary;
mod promptness;
mod restore;
mod rng;
mod scenarios;
mod sim;
mod source;
mod standby;
mod unacked;
mod world;

fn main() -> std::process::ExitCode {
    driver::main()
}
