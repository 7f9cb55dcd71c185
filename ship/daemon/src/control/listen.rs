//! Listens on TCP and unix sockets.
