//! Which authentication the server may ask for.
//!
//! PostgreSQL: `pqConnectOptions2` (fe-connect.c), `check_expected_areq` (fe-auth.c).

use alloc::string::String;

use super::error::ConnInfoError;

/// `channel_binding`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelBinding {
    /// `disable`: never.
    Disable,
    /// When the server offers it.
    Prefer,
    /// `require`: the connection fails without it.
    Require,
}

/// A way to authenticate, as `require_auth` names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AuthMethod {
    /// A password in clear text.
    Password,
    /// A password hashed with MD5.
    Md5,
    /// Kerberos through GSSAPI.
    Gss,
    /// SSPI, on Windows only.
    Sspi,
    /// SCRAM-SHA-256, with channel binding or without.
    ScramSha256,
    /// A bearer token of OAuth.
    Oauth,
}

impl AuthMethod {
    const ALL: [(&'static str, Self); 6] = [
        ("password", Self::Password),
        ("md5", Self::Md5),
        ("gss", Self::Gss),
        ("sspi", Self::Sspi),
        ("scram-sha-256", Self::ScramSha256),
        ("oauth", Self::Oauth),
    ];

    const fn bit(self) -> u8 {
        match self {
            Self::Password => 1,
            Self::Md5 => 2,
            Self::Gss => 4,
            Self::Sspi => 8,
            Self::ScramSha256 => 16,
            Self::Oauth => 32,
        }
    }
}

/// A set of ways to authenticate.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct AuthMethods(u8);

impl AuthMethods {
    const ALL: Self = Self(63);

    /// Whether the set has `method`.
    #[must_use]
    pub const fn contains(self, method: AuthMethod) -> bool {
        self.0 & method.bit() != 0
    }
}

/// `require_auth`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequireAuth {
    /// As it was given, for messages.
    pub text: String,
    /// Whether the server must ask for something.
    pub required: bool,
    /// What it may ask for.
    pub allowed: AuthMethods,
}

impl RequireAuth {
    /// Parses a list of methods, or of `!` and a method.
    ///
    /// # Errors
    /// When a method is unknown or given twice, or `!` is before only some of them.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        let negated = text.starts_with('!');
        let mut required = !negated;
        let mut allowed = if negated { AuthMethods::ALL } else { AuthMethods::default() };
        for part in text.split(',') {
            let method = match (part.strip_prefix('!'), negated) {
                (Some(method), true) => method,
                (None, false) => part,
                (Some(_), false) => {
                    return Err(ConnInfoError::RequireAuthNegative { method: part.into() });
                }
                (None, true) => {
                    return Err(ConnInfoError::RequireAuthPositive { method: part.into() });
                }
            };
            let twice = || ConnInfoError::RequireAuthTwice { method: part.into() };
            if method == "none" {
                if required == negated {
                    return Err(twice());
                }
                required = negated;
                continue;
            }
            let known = AuthMethod::ALL.iter().find(|(name, _)| *name == method);
            let &(_, method) = known.ok_or_else(|| ConnInfoError::Value {
                option: "require_auth",
                value: method.into(),
            })?;
            if allowed.contains(method) != negated {
                return Err(twice());
            }
            allowed.0 ^= method.bit();
        }
        Ok(Self { text: text.into(), required, allowed })
    }
}
