//! The live suite: the walhub binary between real PostgreSQL servers and tools.

mod cascade;
mod clients;
mod command_line;
mod console;
mod disk;
mod drivers;
mod feedback;
mod harness;
mod logical;
mod malformed;
mod many_standbys;
mod operating_system;
mod own_wal;
mod pg_receivewal;
mod restarts;
mod slots;
mod stalls;
mod stop;
mod synchronous;
mod syncrep;
mod timeline;
mod upstream;
mod wire;
