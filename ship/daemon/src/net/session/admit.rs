//! Who may have a session, and how many there may be of whom.
//!
//! Some of it is known before the client has shown who it is, the rest by its role.
//!
//! Not here: how it shows that (`authenticate`), what the session is for (`Serve`).
//!
//! PostgreSQL: `ProcessStartupPacket`, `canAcceptConnections`, `InitProcess`, `InitializeSessionUserId`, `InitPostgres`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use walhub_hub::api::hub::Client;
use walhub_proto::command::truncate_name;
use walhub_proto::roles::Role;
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::{Encoder, Report};
use walhub_proto::wire::startup::{
    self, FirstPacket, OptionsViolation, ReplicationMode, StartupMessage,
};

use super::{ClientSession, ConnectionSlot, Services, too_many_clients};
use crate::backend;
use crate::net::authenticate::{Applicant, Authenticated};
use crate::net::tls::TlsFacts;

/// The role whose members `reserved_connections` are for.
const USE_RESERVED_CONNECTIONS: &str = "pg_use_reserved_connections";

/// The release that has other words for who may not come in.
const NEWER_WORDS: u32 = 160_000;

/// What a session has of what is limited.
pub(super) struct Places {
    _connection: ConnectionSlot,
    _of_role: PlaceOfRole,
}

/// One session of a role; gone when it is dropped.
struct PlaceOfRole {
    by_role: Arc<Mutex<BTreeMap<u32, u32>>>,
    oid: u32,
}

impl PlaceOfRole {
    /// How many sessions of the role there are with this one.
    fn take(by_role: &Arc<Mutex<BTreeMap<u32, u32>>>, oid: u32) -> (Self, u32) {
        let mut counts = by_role.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(oid).or_default();
        *count += 1;
        (Self { by_role: Arc::clone(by_role), oid }, *count)
    }
}

impl Drop for PlaceOfRole {
    fn drop(&mut self) {
        let mut counts = self.by_role.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.oid) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.oid);
            }
        }
    }
}

/// Decodes a packet that was found to be a startup packet.
fn decode(packet: &[u8]) -> StartupMessage {
    match startup::decode(packet) {
        Ok(Some((FirstPacket::Startup(message), _))) => message,
        other => unreachable!("it was decoded before: {other:?}"),
    }
}

/// Who wants to come in. What of the protocol it cannot have is said in `out`.
pub(super) fn applicant(
    packet: &[u8],
    peer: Option<SocketAddr>,
    out: &mut Encoder,
) -> Result<Applicant, Report> {
    let message = decode(packet);
    if message.needs_negotiation() {
        message.encode_negotiation(out);
    }
    let mode = replication_mode(&message)?;
    // Names have a length, here as everywhere. PostgreSQL: `ProcessStartupPacket`.
    let name = |name: &str| message.parameter(name).map(|name| truncate_name(name.to_owned()));
    let Some(user) = name("user") else {
        return Err(Report::fatal(
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    };
    // A physical walsender is connected to no database. PostgreSQL: `ProcessStartupPacket`.
    let database = match mode {
        ReplicationMode::Physical => String::new(),
        ReplicationMode::Off | ReplicationMode::Database => {
            name("database").unwrap_or_else(|| user.clone())
        }
    };
    Ok(Applicant { user, database, mode, peer, packet_bytes: packet.len() })
}

fn replication_mode(message: &StartupMessage) -> Result<ReplicationMode, Report> {
    let Some(value) = message.parameters.get("replication") else {
        return Ok(ReplicationMode::Off);
    };
    ReplicationMode::parse(value).ok_or_else(|| {
        Report::fatal(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("invalid value for parameter \"replication\": \"{value}\""),
        )
        .hint("Valid values are: \"false\", 0, \"true\", 1, \"database\".")
    })
}

/// Whether anybody may come in now. PostgreSQL: `canAcceptConnections`, `InitProcess`.
pub(super) fn check_openness(services: &Services, mode: ReplicationMode) -> Result<(), Report> {
    if services.hub.is_stopping() {
        let message = "the database system is shutting down";
        return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message));
    }
    let is_walsender = mode != ReplicationMode::Off;
    if is_walsender && services.hub.identity().is_none() {
        let message = "the database system is starting up";
        return Err(Report::fatal(SqlState::CANNOT_CONNECT_NOW, message)
            .detail("walhub has not yet received WAL from its upstream."));
    }
    // Nobody takes a place before it has shown who it is, but where there is none it need not begin.
    if is_walsender {
        let max = services.settings().hub.max_wal_senders;
        if services.wal_senders.load(Ordering::Acquire) >= max {
            return Err(too_many_wal_senders(max));
        }
    } else if services.others.load(Ordering::Acquire) >= services.sessions_max() {
        return Err(too_many_clients());
    }
    Ok(())
}

fn too_many_wal_senders(max: u32) -> Report {
    let message = format!(
        "number of requested standby connections exceeds max_wal_senders (currently {max})"
    );
    Report::fatal(SqlState::TOO_MANY_CONNECTIONS, message)
}

/// Begins the session of a client that has shown who it is, if its role may have one.
pub(super) fn admit(
    services: &Arc<Services>,
    applicant: Applicant,
    packet: &[u8],
    (authenticated, role): (Authenticated, Option<Arc<Role>>),
    tls: Option<Arc<TlsFacts>>,
) -> Result<ClientSession, Report> {
    let Applicant { user, database, mode, peer, .. } = applicant;
    let role = may_log_in(&user, role)?;
    let places = take_places(services, &role, mode)?;
    if mode != ReplicationMode::Off && !role.superuser && !role.replication {
        return Err(no_walsender(services));
    }
    let mut message = decode(packet);
    message.apply_options().map_err(|violation| {
        let report = Report::fatal(violation.sqlstate(), violation.to_string());
        match violation {
            OptionsViolation::Argument(_) => {
                report.hint("walhub takes settings here, as in \"-c name=value\".")
            }
            OptionsViolation::NoValue(_) => report,
        }
    })?;
    backend::check_startup(&message.parameters)?;
    let client = Client {
        pid: services.next_pid.fetch_add(1, Ordering::Relaxed),
        application_name: startup::clean_ascii(
            message.parameter("application_name").unwrap_or_default(),
        ),
        user,
        address: peer,
        backend_start: crate::clock::now(),
    };
    let terminate = services.terminate.clone();
    let member = services.sessions.enter(client.pid, message.cancel_key_bytes(), terminate);
    member.interrupts.set_user(role.oid);
    Ok(ClientSession {
        services: Arc::clone(services),
        client,
        mode,
        database,
        authenticated: role.oid,
        identity: authenticated,
        tls,
        member: Arc::new(member),
        message,
        _places: places,
    })
}

/// PostgreSQL: `InitializeSessionUserId`.
fn may_log_in(user: &str, role: Option<Arc<Role>>) -> Result<Arc<Role>, Report> {
    let refused = |what: &str| {
        let message = format!("role \"{user}\" {what}");
        Report::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
    };
    let role = role.ok_or_else(|| refused("does not exist"))?;
    if !role.login {
        return Err(refused("is not permitted to log in"));
    }
    Ok(role)
}

/// PostgreSQL: `InitializeSessionUserId`, `InitProcess`, `InitPostgres`. Places of walsenders are kept apart from those
/// of the others.
fn take_places(services: &Services, role: &Role, mode: ReplicationMode) -> Result<Places, Report> {
    let (of_role, count) = PlaceOfRole::take(&services.by_role, role.oid);
    let limit = u32::try_from(role.connection_limit).ok();
    if limit.is_some_and(|limit| count > limit) && !role.superuser {
        let message = format!("too many connections for role \"{}\"", role.name);
        return Err(Report::fatal(SqlState::TOO_MANY_CONNECTIONS, message));
    }
    if mode != ReplicationMode::Off {
        let max = services.settings().hub.max_wal_senders;
        let connection = ConnectionSlot::take(&services.wal_senders, max);
        let connection = connection.ok_or_else(|| too_many_wal_senders(max))?;
        return Ok(Places { _connection: connection, _of_role: of_role });
    }
    let settings = services.settings();
    let may_use_reserved =
        || services.guard.directory.has_privileges_of(role, USE_RESERVED_CONNECTIONS);
    let kept = if role.superuser {
        0
    } else if settings.reserved_connections > 0 && may_use_reserved() {
        settings.superuser_reserved_connections
    } else {
        settings.superuser_reserved_connections.saturating_add(settings.reserved_connections)
    };
    let max = services.sessions_max();
    let connection = ConnectionSlot::take(&services.others, max.saturating_sub(kept));
    let connection = connection.ok_or_else(|| {
        let free = max.saturating_sub(services.others.load(Ordering::Acquire));
        no_place(services, free)
    })?;
    Ok(Places { _connection: connection, _of_role: of_role })
}

/// Why there is no place among the others while so many are free. PostgreSQL: `InitPostgres`.
fn no_place(services: &Services, free: u32) -> Report {
    if free == 0 {
        return too_many_clients();
    }
    // PostgreSQL counts without the one that is asked for.
    let for_superusers = free <= services.settings().superuser_reserved_connections;
    let message = match (for_superusers, services.server_version_num() >= NEWER_WORDS) {
        (true, false) => {
            "remaining connection slots are reserved for non-replication superuser connections"
                .to_owned()
        }
        (true, true) => "remaining connection slots are reserved for roles with the SUPERUSER \
                         attribute"
            .to_owned(),
        (false, _) => format!(
            "remaining connection slots are reserved for roles with privileges of the \
             \"{USE_RESERVED_CONNECTIONS}\" role"
        ),
    };
    Report::fatal(SqlState::TOO_MANY_CONNECTIONS, message)
}

/// PostgreSQL: `InitPostgres`.
fn no_walsender(services: &Services) -> Report {
    let fatal = |message| Report::fatal(SqlState::INSUFFICIENT_PRIVILEGE, message);
    if services.server_version_num() < NEWER_WORDS {
        return fatal("must be superuser or replication role to start walsender");
    }
    fatal("permission denied to start WAL sender")
        .detail("Only roles with the REPLICATION attribute may start a WAL sender process.")
}
