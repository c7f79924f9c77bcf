//! What a simulator is started with.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Clock;
use crate::client_auth::{Certificate, FederatedCredential};
use crate::device::DeviceFlow;
use crate::tls::Tls;

/// The default tenant's GUID.
pub const TENANT_ID: &str = "aaaabbbb-0000-cccc-1111-dddd2222eeee";
/// The default tenant's domain.
pub const TENANT_DOMAIN: &str = "contoso.onmicrosoft.com";
/// The default client: public, so without a secret.
pub const CLIENT_ID: &str = "11111111-2222-3333-4444-555555555555";
/// The default user's object id.
pub const USER_OID: &str = "00001111-aaaa-2222-bbbb-3333cccc4444";
/// The default user's principal name.
pub const USER_UPN: &str = "etl@contoso.com";

/// How a simulator starts. [`Config::default`] is one tenant with one public client and one user.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Serve HTTPS with this.
    pub tls: Option<Tls>,
    /// The one tenant.
    pub tenant: Tenant,
    /// The registered applications. The first is the default of the control calls.
    pub clients: Vec<Client>,
    /// The tenant's users. The first is the default of the control calls.
    pub users: Vec<User>,
    /// How long an access token lives.
    pub token_lifetime: Duration,
    /// Answered as `refresh_in`, when set.
    pub refresh_in: Option<Duration>,
    /// How long a refresh token lives without use.
    pub refresh_token_lifetime: Duration,
    /// Answer `"3600"` instead of `3600`, as some endpoints of Entra do.
    pub numbers_as_strings: bool,
    /// What becomes of a refresh token that was used.
    pub rotation: Rotation,
    /// How signing in by device code goes.
    pub device: DeviceFlow,
    /// Take certificate assertions signed by RS256 too, beside PS256.
    pub rs256_assertions: bool,
    /// The time.
    pub clock: Clock,
}

/// A directory, addressed by its GUID or its domain.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The GUID.
    pub id: String,
    /// A verified domain.
    pub domain: String,
}

/// A registered application.
#[derive(Clone, Deserialize)]
pub struct Client {
    /// The application id.
    #[serde(default)]
    pub id: String,
    /// A confidential client's secret. Without any of secret, certificate and federated credential the client is
    /// public.
    #[serde(default)]
    pub secret: Option<String>,
    /// Certificates whose keys sign its assertions.
    #[serde(default)]
    pub certificates: Vec<Certificate>,
    /// Issuers elsewhere whose tokens prove it.
    #[serde(default)]
    pub federated: Vec<FederatedCredential>,
    /// Application permissions, as in `User.Read.All`. Without any, Graph refuses its app-only tokens.
    #[serde(default)]
    pub app_roles: Vec<String>,
}

/// A user of the tenant.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// The object id.
    #[serde(default)]
    pub oid: String,
    /// The user principal name.
    pub upn: String,
    /// The short names of the scopes consented to. `None` consents to whatever is asked for.
    #[serde(default)]
    pub consented: Option<Vec<String>>,
}

/// What becomes of a refresh token that was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// It goes on working, as on Entra. Each use returns a new one.
    #[default]
    Lenient,
    /// It worked once. A replay revokes every refresh token that stems from the same sign-in.
    Strict,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            tenant: Tenant { id: TENANT_ID.to_owned(), domain: TENANT_DOMAIN.to_owned() },
            clients: vec![Client::public(CLIENT_ID)],
            users: vec![User::new(USER_OID, USER_UPN)],
            token_lifetime: Duration::from_hours(1),
            refresh_in: None,
            refresh_token_lifetime: Duration::from_hours(90 * 24),
            numbers_as_strings: false,
            rotation: Rotation::default(),
            device: DeviceFlow::default(),
            rs256_assertions: false,
            clock: Clock::system(),
        }
    }
}

impl Client {
    /// A client that proves nothing.
    pub fn public(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            secret: None,
            certificates: Vec::new(),
            federated: Vec::new(),
            app_roles: Vec::new(),
        }
    }

    /// A client that proves itself with a secret.
    pub fn confidential(id: impl Into<String>, secret: impl Into<String>) -> Self {
        Self { secret: Some(secret.into()), ..Self::public(id) }
    }

    /// Registers a certificate: the client proves itself with assertions signed by its key.
    #[must_use]
    pub fn with_certificate(mut self, certificate: Certificate) -> Self {
        self.certificates.push(certificate);
        self
    }

    /// Registers a federated credential: the client proves itself with tokens of another issuer.
    #[must_use]
    pub fn with_federated(mut self, credential: FederatedCredential) -> Self {
        self.federated.push(credential);
        self
    }

    /// Whether it must prove itself.
    pub fn is_confidential(&self) -> bool {
        self.secret.is_some() || !self.certificates.is_empty() || !self.federated.is_empty()
    }

    /// Grants an application permission.
    #[must_use]
    pub fn with_app_role(mut self, role: impl Into<String>) -> Self {
        self.app_roles.push(role.into());
        self
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.id)
            .field("secret", &self.secret.is_some())
            .field("certificates", &self.certificates)
            .field("federated", &self.federated)
            .field("app_roles", &self.app_roles)
            .finish()
    }
}

impl User {
    /// A user who consents to whatever is asked for.
    pub fn new(oid: impl Into<String>, upn: impl Into<String>) -> Self {
        Self { oid: oid.into(), upn: upn.into(), consented: None }
    }

    /// Limits the consent to these scopes.
    #[must_use]
    pub fn with_consent<'a>(mut self, scopes: impl IntoIterator<Item = &'a str>) -> Self {
        self.consented = Some(scopes.into_iter().map(str::to_owned).collect());
        self
    }
}
