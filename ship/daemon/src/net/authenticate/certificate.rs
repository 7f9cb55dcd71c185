//! By the certificate that the client has shown in the handshake, where it was verified.
//!
//! PostgreSQL: `ClientAuthentication`, `CheckCertAuth` (src/backend/libpq/auth.c).

use walhub_proto::hba::{ClientCertificate, ClientName, Membership, Method, Rule};
use walhub_proto::sqlstate::SqlState;
use walhub_proto::wire::backend::Report;

use super::{Attempt, Refusal};
use crate::net::tls::TlsFacts;

/// Whether there is one, where the rule wants one.
pub(super) fn check_presence(rule: &Rule, tls: Option<&TlsFacts>) -> Result<(), Refusal> {
    if rule.client_certificate.is_none() || tls.is_some_and(|tls| tls.client_serial.is_some()) {
        return Ok(());
    }
    let message = "connection requires a valid client certificate";
    Err(Report::fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message).into())
}

/// Whether the name in it may be the role's, where the rule wants that. With the method `cert` it tells who the client
/// is: the subject.
pub(super) fn check(
    attempt: &Attempt<'_>,
    tls: Option<&TlsFacts>,
    members: &dyn Membership,
) -> Result<Option<String>, Refusal> {
    let (rule, user) = (attempt.rule, &attempt.applicant.user);
    let is_method = rule.method == Method::Cert;
    if !is_method && rule.client_certificate != Some(ClientCertificate::VerifyFull) {
        return Ok(None);
    }
    let subject = tls.and_then(|tls| tls.client_dn.clone());
    let name = match rule.client_name {
        ClientName::Dn => subject.clone(),
        ClientName::Cn => tls.and_then(|tls| tls.client_cn.clone()),
    };
    let no_name = |reason| {
        tracing::info!("certificate authentication failed for user \"{user}\": {reason}");
        attempt.failed(None)
    };
    let Some(name) = name.filter(|name| !name.is_empty()) else {
        return Err(no_name("client certificate contains no user name"));
    };
    let mut identity = None;
    if is_method {
        let subject = subject.ok_or_else(|| no_name("unable to retrieve subject DN"))?;
        attempt.log_identity(&subject);
        identity = Some(subject);
    }
    attempt.check_map(&name, members).inspect_err(|_| {
        if !is_method {
            let which = rule.client_name.as_str();
            tracing::info!(
                "certificate validation (clientcert=verify-full) failed for user \"{user}\": \
                 {which} mismatch"
            );
        }
    })?;
    Ok(identity)
}
