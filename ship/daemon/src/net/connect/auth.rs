//! The client's side of authentication: which requests are answered, and how.
//!
//! PostgreSQL: src/interfaces/libpq/fe-auth.c, fe-auth-scram.c.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding as ScramBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use postgres_protocol::message::frontend;
use walhub_proto::conninfo::{AuthMethod, ChannelBinding, ConnInfo, SslCertMode};
use walhub_proto::wire::reader::Reader;

use super::error::Cause;
use super::tls::Channel;

const OK: u32 = 0;
const PASSWORD: u32 = 3;
const MD5: u32 = 5;
const GSS: u32 = 7;
const GSS_CONTINUE: u32 = 8;
const SSPI: u32 = 9;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// Answers one server's authentication requests.
pub(super) struct Authenticator<'a> {
    conninfo: &'a ConnInfo,
    password: Option<&'a str>,
    channel: &'a Channel,
    scram: Option<ScramSha256>,
    /// Whether the server asked for a password.
    pub(super) password_used: bool,
    bound: bool,
    finished: bool,
}

impl<'a> Authenticator<'a> {
    pub(super) const fn new(
        conninfo: &'a ConnInfo,
        password: Option<&'a str>,
        channel: &'a Channel,
    ) -> Self {
        Self {
            conninfo,
            password,
            channel,
            scram: None,
            password_used: false,
            bound: false,
            finished: false,
        }
    }

    /// Handles the body of an authentication request; whether the server is content.
    pub(super) fn handle_request(
        &mut self,
        body: &[u8],
        out: &mut BytesMut,
    ) -> Result<bool, Cause> {
        let mut reader = Reader::new(body);
        let request = reader.u32().map_err(Cause::malformed)?;
        self.check(request)?;
        match request {
            OK if self.scram.is_some() && !self.finished => Err(refuse(
                "AuthenticationOk received from server, but SASL authentication was not completed",
            )),
            OK => Ok(true),
            PASSWORD => {
                self.finished = true;
                let password = self.password()?.as_bytes();
                frontend::password_message(password, out)?;
                Ok(false)
            }
            MD5 => {
                self.finished = true;
                let salt = reader.array().map_err(Cause::malformed)?;
                let user = self.conninfo.user.as_bytes();
                let hash = md5_hash(user, self.password()?.as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), out)?;
                Ok(false)
            }
            SASL => self.start_sasl(reader, out).map(|()| false),
            SASL_CONTINUE => {
                let scram = self
                    .scram
                    .as_mut()
                    .ok_or_else(|| refuse("invalid SASL authentication state"))?;
                scram.update(reader.rest()).map_err(|error| refuse(&error.to_string()))?;
                frontend::sasl_response(scram.message(), out)?;
                Ok(false)
            }
            SASL_FINAL => {
                let scram = self
                    .scram
                    .as_mut()
                    .ok_or_else(|| refuse("invalid SASL authentication state"))?;
                // Only this proves that the server knows the password too.
                scram.finish(reader.rest()).map_err(|_| refuse("incorrect server signature"))?;
                self.finished = true;
                Ok(false)
            }
            GSS | GSS_CONTINUE => Err(refuse("GSSAPI authentication not supported")),
            SSPI => Err(refuse("SSPI authentication not supported")),
            1 => Err(refuse("Kerberos 4 authentication not supported")),
            2 => Err(refuse("Kerberos 5 authentication not supported")),
            4 => Err(refuse("Crypt authentication not supported")),
            other => Err(refuse(&format!("authentication method {other} not supported"))),
        }
    }

    fn password(&mut self) -> Result<&'a str, Cause> {
        self.password_used = true;
        let password = self.password.filter(|password| !password.is_empty());
        password.ok_or_else(|| refuse("fe_sendauth: no password supplied"))
    }

    /// PostgreSQL: `pg_SASL_init`.
    fn start_sasl(&mut self, mut reader: Reader<'_>, out: &mut BytesMut) -> Result<(), Cause> {
        if self.scram.is_some() {
            return Err(refuse("duplicate SASL authentication request"));
        }
        let wanted = self.conninfo.channel_binding;
        let tls = matches!(self.channel, Channel::Tls { .. });
        if wanted == ChannelBinding::Require && !tls {
            return Err(refuse("channel binding required, but SSL not in use"));
        }
        let (mut plain, mut plus) = (false, false);
        loop {
            let mechanism = reader.cstr_bytes().map_err(Cause::malformed)?;
            match mechanism {
                b"" => break,
                name if name == SCRAM_SHA_256.as_bytes() => plain = true,
                name if name == SCRAM_SHA_256_PLUS.as_bytes() => plus = true,
                _ => {}
            }
        }
        if plus && !tls {
            return Err(refuse(
                "server offered SCRAM-SHA-256-PLUS authentication over a non-SSL connection",
            ));
        }
        let end_point = match self.channel {
            Channel::Tls { end_point: Some(hash), .. }
                if plus && wanted != ChannelBinding::Disable =>
            {
                Some(hash.clone())
            }
            Channel::Tls { .. } | Channel::Plain => None,
        };
        if wanted == ChannelBinding::Require && end_point.is_none() {
            return Err(refuse(
                "channel binding is required, but server did not offer an authentication method \
                 that supports channel binding",
            ));
        }
        let (mechanism, binding) = match end_point {
            Some(hash) => (SCRAM_SHA_256_PLUS, ScramBinding::tls_server_end_point(hash)),
            None if !plain => {
                return Err(refuse(
                    "none of the server's SASL authentication mechanisms are supported",
                ));
            }
            // "y" tells the server that binding was possible, so a man in the middle who removed
            // its offer is found out; it would be a lie where the server did offer.
            None if tls && !plus && wanted != ChannelBinding::Disable => {
                (SCRAM_SHA_256, ScramBinding::unrequested())
            }
            None => (SCRAM_SHA_256, ScramBinding::unsupported()),
        };
        self.bound = mechanism == SCRAM_SHA_256_PLUS;
        let password = self.password()?;
        let scram = self.scram.insert(ScramSha256::new(password.as_bytes(), binding));
        frontend::sasl_initial_response(mechanism, scram.message(), out)?;
        Ok(())
    }

    /// Refuses a request that the options rule out. PostgreSQL: `check_expected_areq`.
    fn check(&self, request: u32) -> Result<(), Cause> {
        let method = match request {
            PASSWORD => Some(AuthMethod::Password),
            MD5 => Some(AuthMethod::Md5),
            GSS => Some(AuthMethod::Gss),
            SSPI => Some(AuthMethod::Sspi),
            SASL | SASL_CONTINUE | SASL_FINAL => Some(AuthMethod::ScramSha256),
            _ => None,
        };
        if self.conninfo.ssl.certmode == SslCertMode::Require && request == OK {
            match self.channel {
                Channel::Tls { certificate_sent: true, .. } => {}
                Channel::Tls { certificate_requested: true, .. } => {
                    return Err(refuse(
                        "server accepted connection without a valid SSL certificate",
                    ));
                }
                Channel::Tls { .. } | Channel::Plain => {
                    return Err(refuse("server did not request an SSL certificate"));
                }
            }
        }
        if let Some(require) = &self.conninfo.require_auth {
            let reason = match (request, method) {
                (OK, _) if require.required && !self.finished => {
                    Some("server did not complete authentication")
                }
                (OK, _) => None,
                (_, Some(method)) if require.allowed.contains(method) => None,
                _ => Some(describe(request)),
            };
            if let Some(reason) = reason {
                let text = &require.text;
                return Err(refuse(&format!(
                    "authentication method requirement \"{text}\" failed: {reason}"
                )));
            }
        }
        if self.conninfo.channel_binding == ChannelBinding::Require {
            match request {
                SASL | SASL_CONTINUE | SASL_FINAL => {}
                OK if self.bound && self.finished => {}
                OK => {
                    return Err(refuse(
                        "channel binding required, but server authenticated client without \
                         channel binding",
                    ));
                }
                _ => {
                    return Err(refuse(
                        "channel binding required but not supported by server's authentication \
                         request",
                    ));
                }
            }
        }
        Ok(())
    }
}

/// PostgreSQL: `auth_method_description`.
const fn describe(request: u32) -> &'static str {
    match request {
        PASSWORD => "server requested a cleartext password",
        MD5 => "server requested a hashed password",
        GSS | GSS_CONTINUE => "server requested GSSAPI authentication",
        SSPI => "server requested SSPI authentication",
        SASL | SASL_CONTINUE | SASL_FINAL => "server requested SASL authentication",
        _ => "server requested an unknown authentication type",
    }
}

fn refuse(text: &str) -> Cause {
    Cause::Refused(text.to_string())
}
