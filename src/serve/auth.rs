//! Who a request is from: a password or a token in its headers, the certificate of its connection, or nobody.
//!
//! `Authorization` brings a password (`Basic`, RFC 7617) or a token (`Bearer`, RFC 6750, or `Token`; also in the place of
//! the password); without it a token may come as `X-Api-Key`. Names of schemes are taken in any case. A certificate that
//! stands for a user is enough by itself; with credentials beside it, those have to be right and the same user's.
//!
//! Hashing a password costs tens of milliseconds and 19 MiB, and clients send it with every request. So a pair that was
//! checked is remembered for five minutes as an HMAC under a key that lives and dies with the process; hashing runs on
//! blocking threads, as many at once as there are cores, and only so many may wait. A name that does not exist costs a
//! hash like a wrong password does. Who guesses is slowed ([`failures`](crate::serve::failures)).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use argon2::password_hash::rand_core::{OsRng, RngCore};
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use crate::model::time::Timestamp;
use crate::serve::client::{Client, ClientCertificate};
use crate::serve::error::{ServeError, StartError, chain, cut};
use crate::serve::failures::{Attempt, Failures};
use crate::serve::limits::Tally;
use crate::serve::options::Options;
use crate::serve::router::App;
use crate::serve::stamp::Stamp;
use crate::serve::style::Style;
use crate::serve::tokens::{self, Digest as TokenDigest};
use crate::serve::users::{MAX_PASSWORD_BYTES, UserFile, UserRecord, verify_password};

/// How long a checked pair is taken without hashing again.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How often, at most, the users file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Password checks that may wait for a thread; further ones are told to come back.
const MAX_WAITING: u64 = 64;
/// Where a token may stand by itself.
pub(super) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Clients disagree about padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody said, and nobody needs to.
    Anonymous(Nobody),
    /// A user who proved to be one.
    User(Arc<User>),
}

/// What it means to come without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// There are users: saying who one is may open more.
    AmongUsers,
    /// There are none, and other machines can reach the server.
    Open,
    /// There are none, there were none since the start, and only this machine can reach the server.
    AtHome,
}

impl Nobody {
    fn of(no_users: bool, had_users: bool, on_loopback: bool) -> Self {
        match (no_users, had_users) {
            (false, _) => Nobody::AmongUsers,
            (true, false) if on_loopback => Nobody::AtHome,
            (true, _) => Nobody::Open,
        }
    }
}

/// A user, as a request has proved it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// The groups it is in, without `@`.
    pub groups: Vec<String>,
    /// What proved it.
    pub how: How,
}

/// What proved who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// The password.
    Password,
    /// A token.
    Token {
        /// Its id, which is no secret.
        id: String,
        /// What it was made for.
        label: String,
    },
    /// The certificate of the connection.
    Certificate,
}

impl How {
    /// A word for it.
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            How::Password => "password",
            How::Token { .. } => "token",
            How::Certificate => "certificate",
        }
    }
}

impl Identity {
    /// The name for the access log.
    pub(super) fn name(&self) -> &str {
        self.user_name().unwrap_or("-")
    }

    /// A user of the users file, for those who ask what one may do.
    pub fn of(user: &UserRecord) -> Self {
        Identity::User(proved(user, How::Password))
    }

    /// The user's name.
    pub fn user_name(&self) -> Option<&str> {
        match self {
            Identity::Anonymous(_) => None,
            Identity::User(user) => Some(&user.name),
        }
    }
}

impl Default for Identity {
    /// Who one is before one was asked.
    fn default() -> Self {
        Identity::Anonymous(Nobody::AmongUsers)
    }
}

impl Identity {
    /// How they proved it, for the audit log and the metrics.
    pub(super) fn proof(&self) -> &'static str {
        match self {
            Identity::Anonymous(_) => "anonymous",
            Identity::User(user) => user.how.as_str(),
        }
    }
}

/// Refuses requests that nobody known sent; puts the [`Identity`] into request and response.
pub(super) async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let address = Client::address_of(&request);
    let certificate = request.extensions().get::<Client>().and_then(|client| client.certificate.clone());
    match app.gate.admit(request.headers(), address, certificate.as_deref()).await {
        Ok(identity) => {
            Style::settle(&app, &identity, &mut request);
            request.extensions_mut().insert(identity.clone());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(identity);
            response
        }
        Err(refusal) => refusal.into_response(),
    }
}

type Digest = [u8; 32];

/// The door: users, and whether one may pass without being one.
#[derive(Debug)]
pub(super) struct Gate {
    path: PathBuf,
    anonymous: Anonymous,
    on_loopback: bool,
    known: Mutex<Known>,
    failures: Failures,
    /// Keyed, ready to be cloned for a digest.
    keyed: Hmac<Sha256>,
    hashing: Semaphore,
    waiting: Arc<Tally>,
    hashed: AtomicU64,
}

/// When a request without credentials is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// As the options say.
    Always,
    /// On a loopback address, until a user was seen: one who could take the users file away must not open the server
    /// with that.
    UntilUsers,
    /// Users only.
    Never,
}

impl Anonymous {
    /// Settles it; refuses options that would open the server to everyone by accident.
    fn settle(options: &Options, no_users: bool) -> Result<Self, StartError> {
        let auth = &options.auth;
        let said_twice = auth.anonymous == Some(true) && auth.anonymous_off_loopback;
        if no_users && !options.on_loopback() && !said_twice {
            return Err(StartError::OpenToAll { address: options.listen, users: auth.users.clone() });
        }
        Ok(match auth.anonymous {
            Some(true) if options.on_loopback() || said_twice => Anonymous::Always,
            None if options.on_loopback() => Anonymous::UntilUsers,
            _ => Anonymous::Never,
        })
    }
}

/// Who may come in, as the files said when they were looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Names of the users.
    pub users: Vec<String>,
    /// Names of the groups that users are in.
    pub groups: BTreeSet<String>,
    /// Who need not be one of them.
    pub anonymous: Anonymous,
}

impl Admission {
    /// Reads the users file as a server that starts with these options would.
    pub(super) fn examine(options: &Options) -> Result<Self, StartError> {
        let file = UserFile::load(&options.auth.users)?;
        let users: Vec<String> = file.list().map(str::to_owned).collect();
        let anonymous = Anonymous::settle(options, users.is_empty())?;
        Ok(Self { users, groups: file.groups().into_keys().map(str::to_owned).collect(), anonymous })
    }

    /// Who somebody without a name is on a server with these options.
    pub fn nobody(&self, options: &Options) -> Nobody {
        Nobody::of(self.users.is_empty(), false, options.on_loopback())
    }
}

/// What was last read from the users file, and who was checked since.
#[derive(Debug)]
struct Known {
    users: Arc<Users>,
    /// Whether there were any since the start.
    had_users: bool,
    checked: HashMap<String, Checked>,
    stamp: Option<Stamp>,
    looked: Instant,
}

#[derive(Debug)]
struct Checked {
    digest: Digest,
    until: Instant,
}

/// The users file, ready to be asked.
#[derive(Debug, Default)]
struct Users {
    by_name: HashMap<String, Account>,
    by_token: HashMap<String, Token>,
    /// Names of users by those of certificates.
    by_certificate: HashMap<String, String>,
    /// Hash that stands in for a name that does not exist, or has no password.
    decoy: Option<Arc<str>>,
}

#[derive(Debug)]
struct Account {
    name: String,
    hash: Option<Arc<str>>,
    disabled: bool,
    by_password: Arc<User>,
    by_certificate: Arc<User>,
}

#[derive(Debug)]
struct Token {
    digest: TokenDigest,
    expires: Option<Timestamp>,
    revoked: bool,
    user: Arc<User>,
}

impl Users {
    fn new(file: &UserFile) -> Self {
        let mut users = Self::default();
        for record in file.users() {
            let hash: Option<Arc<str>> = record.hash.as_deref().map(Into::into);
            users.decoy = users.decoy.or_else(|| hash.clone());
            for certificate in &record.certificates {
                users.by_certificate.insert(certificate.clone(), record.name.clone());
            }
            let account = Account {
                name: record.name.clone(),
                hash,
                disabled: record.disabled,
                by_password: proved(record, How::Password),
                by_certificate: proved(record, How::Certificate),
            };
            users.by_name.insert(record.name.clone(), account);
        }
        for token in file.tokens() {
            // A token whose user is gone is nobody's.
            let Ok(record) = file.get(&token.user) else { continue };
            let how = How::Token { id: token.id.clone(), label: token.label.clone() };
            let user = proved(record, how);
            let revoked = token.revoked.is_some();
            let token = Token { digest: token.digest, expires: token.expires, revoked, user };
            if let How::Token { id, .. } = &token.user.how {
                users.by_token.insert(id.clone(), token);
            }
        }
        users
    }

    fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The user that the certificate of the connection stands for.
    fn certified(&self, certificate: Option<&ClientCertificate>) -> Result<Option<&Account>, ServeError> {
        let names = certificate.map_or(&[][..], |certificate| certificate.names.as_slice());
        let mut users = names.iter().filter_map(|name| self.by_certificate.get(name));
        let Some(user) = users.next() else { return Ok(None) };
        if users.any(|other| other != user) {
            return Err(ServeError::Unauthorized { reason: "the certificate stands for several users" });
        }
        match self.by_name.get(user) {
            Some(account) if account.disabled => {
                Err(ServeError::Unauthorized { reason: "the certificate's user is disabled" })
            }
            account => Ok(account),
        }
    }

    /// The user of a token, if it is one of ours and still good; `of` is whose it has to be.
    fn holder(&self, text: &str, of: Option<&str>, now: Timestamp) -> Result<&Arc<User>, BadToken> {
        let id = tokens::id_of(text).ok_or(BadToken::Wrong("not a token"))?;
        let token = self.by_token.get(id).ok_or(BadToken::Wrong("unknown token"))?;
        if !token.digest.is(TokenDigest::of(text)) {
            return Err(BadToken::Wrong("wrong secret in a token"));
        }
        // From here on it is in the hands of somebody who had it.
        if of.is_some_and(|name| name != token.user.name) {
            return Err(BadToken::Right("token of another user"));
        }
        if token.revoked {
            return Err(BadToken::Right("revoked token"));
        }
        if token.expires.is_some_and(|expires| expires <= now) {
            return Err(BadToken::Expired);
        }
        if self.by_name.get(&token.user.name).is_none_or(|account| account.disabled) {
            return Err(BadToken::Right("token of a disabled user"));
        }
        Ok(&token.user)
    }
}

fn proved(record: &UserRecord, how: How) -> Arc<User> {
    Arc::new(User { name: record.name.clone(), groups: record.groups.clone(), how })
}

/// Why a token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BadToken {
    /// It may be a guess.
    Wrong(&'static str),
    /// Its secret is right, so it is no guess.
    Right(&'static str),
    Expired,
}

impl BadToken {
    fn refusal(self) -> ServeError {
        match self {
            BadToken::Wrong(reason) | BadToken::Right(reason) => ServeError::BadToken { reason, expired: false },
            BadToken::Expired => ServeError::BadToken { reason: "expired token", expired: true },
        }
    }
}

impl Gate {
    /// Reads the users and settles who may come in without being one of them.
    pub(super) fn open(options: &Options) -> Result<Self, StartError> {
        let auth = &options.auth;
        let stamp = Stamp::of(&auth.users);
        let users = Users::new(&UserFile::load(&auth.users)?);
        let anonymous = Anonymous::settle(options, users.is_empty())?;
        if users.is_empty() && anonymous == Anonymous::Never {
            tracing::warn!(users = %auth.users.display(), "there are no users yet, so every request is refused");
        }
        let mut key = [0; 64];
        OsRng.fill_bytes(&mut key);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            path: auth.users.clone(),
            anonymous,
            on_loopback: options.on_loopback(),
            known: Mutex::new(Known::new(users, stamp, false)),
            failures: Failures::default(),
            keyed: Hmac::new(&key.into()),
            hashing: Semaphore::new(threads),
            waiting: Arc::default(),
            hashed: AtomicU64::new(0),
        })
    }

    /// Decides on one request.
    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        address: IpAddr,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Identity, ServeError> {
        self.look_again().await;
        let (users, had_users) = {
            let known = self.known.lock();
            (Arc::clone(&known.users), known.had_users)
        };
        let open = match self.anonymous {
            Anonymous::Always => true,
            Anonymous::UntilUsers => !had_users,
            Anonymous::Never => false,
        };
        let nobody = Identity::Anonymous(Nobody::of(users.is_empty(), had_users, self.on_loopback));
        // Without users nobody's credentials can be right: on an open server they are then as good as none.
        if open && users.is_empty() {
            return Ok(nobody);
        }
        let given = Given::read(headers);
        let name = given.as_ref().ok().and_then(|given| given.as_ref()?.name()).map(cut);
        match self.identify(&users, given, address, certificate).await {
            Ok(Some(user)) => Ok(Identity::User(user)),
            Ok(None) if open => Ok(nobody),
            Ok(None) => Err(ServeError::Unauthorized { reason: "no credentials" }),
            Err(error) => {
                let reason = error.to_string();
                match error {
                    ServeError::Unauthorized { .. } | ServeError::BadToken { .. } => {
                        tracing::warn!(user = name, %address, reason, "login failed");
                    }
                    _ => tracing::debug!(user = name, %address, reason, "login refused"),
                }
                Err(error)
            }
        }
    }

    /// The user whom credentials and certificate together prove; `None`: there are neither.
    async fn identify(
        &self,
        users: &Users,
        given: Result<Option<Given>, ServeError>,
        address: IpAddr,
        certificate: Option<&ClientCertificate>,
    ) -> Result<Option<Arc<User>>, ServeError> {
        let given = given?;
        let certified = users.certified(certificate)?;
        let user = match given {
            None => return Ok(certified.map(|account| Arc::clone(&account.by_certificate))),
            Some(Given::Token(text)) => self.by_token(users, &text, None, address)?,
            Some(Given::Pair { name, password }) => {
                // A password that only looks like a token is still a password.
                let token = std::str::from_utf8(&password).ok();
                let token = token.filter(|text| tokens::id_of(text).is_some_and(|id| users.by_token.contains_key(id)));
                match token {
                    Some(text) => self.by_token(users, text, Some(&name), address)?,
                    None => self.by_password(users, name, password, address).await?,
                }
            }
        };
        match certified {
            Some(account) if account.name != user.name => {
                Err(ServeError::Unauthorized { reason: "credentials and certificate are of different users" })
            }
            _ => Ok(Some(user)),
        }
    }

    /// Right tokens pass whatever failed before: they cannot be guessed, so slowing them would help nobody.
    fn by_token(&self, users: &Users, text: &str, of: Option<&str>, address: IpAddr) -> Result<Arc<User>, ServeError> {
        let bad = match users.holder(text, of, Timestamp::now()) {
            Ok(user) => return Ok(Arc::clone(user)),
            Err(bad) => bad,
        };
        if let BadToken::Wrong(_) = bad {
            // By its text, so that one client with an old token does not use up what others behind its address may fail.
            let attempt = self.failures.attempt(text, address);
            self.may_try(attempt)?;
            self.failures.failed(attempt, Instant::now());
        }
        Err(bad.refusal())
    }

    async fn by_password(
        &self,
        users: &Users,
        name: String,
        password: Vec<u8>,
        address: IpAddr,
    ) -> Result<Arc<User>, ServeError> {
        let account = users.by_name.get(&name);
        let digest = self.digest(&name, &password);
        let attempt = self.failures.attempt(&name, address);
        let remembered = self.remembers(&name, &digest);
        if !remembered {
            self.may_try(attempt)?;
            let hash = account.and_then(|account| account.hash.as_ref());
            let right = match hash.or(users.decoy.as_ref()) {
                Some(hash) => self.verify(Arc::clone(hash), password, &name, &digest, attempt).await?,
                None => false,
            };
            if !right || hash.is_none() {
                self.failures.failed(attempt, Instant::now());
                let reason = match account {
                    None => "unknown user",
                    Some(account) if account.hash.is_none() => "a user without a password",
                    Some(_) => "wrong password",
                };
                return Err(ServeError::Unauthorized { reason });
            }
            self.failures.succeeded(attempt, Instant::now());
        }
        match account {
            Some(account) if !account.disabled => {
                if !remembered {
                    self.remember(users, &name, digest);
                }
                Ok(Arc::clone(&account.by_password))
            }
            _ => Err(ServeError::Unauthorized { reason: "disabled user" }),
        }
    }

    fn may_try(&self, attempt: Attempt) -> Result<(), ServeError> {
        match self.failures.wait(attempt, Instant::now()) {
            None => Ok(()),
            Some(wait) => Err(ServeError::TooMany { what: "failed logins", retry_after: wait.as_secs() + 1 }),
        }
    }

    /// Hashes on a blocking thread. A pair that was found right while this one waited is not hashed again, and one that
    /// has to wait by now is not hashed at all: what came in one burst is no more than one try.
    async fn verify(
        &self,
        hash: Arc<str>,
        password: Vec<u8>,
        name: &str,
        digest: &Digest,
        attempt: Attempt,
    ) -> Result<bool, ServeError> {
        let mut place = Tally::share(&self.waiting);
        if !place.grow_to(1, MAX_WAITING) {
            return Err(ServeError::Busy { what: "password checks" });
        }
        let _permit =
            self.hashing.acquire().await.map_err(|_| ServeError::Internal { what: "password checks closed" })?;
        if self.remembers(name, digest) {
            return Ok(true);
        }
        self.may_try(attempt)?;
        self.hashed.fetch_add(1, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || verify_password(&hash, &password))
            .await
            .map_err(|_| ServeError::Internal { what: "a password check panicked" })
    }

    /// Passwords hashed so far.
    pub(super) fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Relaxed)
    }

    fn digest(&self, name: &str, password: &[u8]) -> Digest {
        let mut mac = self.keyed.clone();
        // A name holds no colon, so no two pairs are the same text.
        mac.update(name.as_bytes());
        mac.update(b":");
        mac.update(password);
        mac.finalize().into_bytes().into()
    }

    fn remembers(&self, name: &str, digest: &Digest) -> bool {
        let known = self.known.lock();
        known
            .checked
            .get(name)
            .is_some_and(|checked| checked.until > Instant::now() && bool::from(checked.digest.ct_eq(digest)))
    }

    /// One entry a user, so never more than the file has lines. Not kept if the file was read anew meanwhile.
    fn remember(&self, users: &Users, name: &str, digest: Digest) {
        let mut known = self.known.lock();
        if !std::ptr::eq(Arc::as_ptr(&known.users), users) {
            return;
        }
        known.checked.insert(name.to_owned(), Checked { digest, until: Instant::now() + REMEMBERED });
    }

    /// Reads the file anew if it changed, however short the last look is ago.
    #[cfg(test)]
    pub(super) async fn look_now(&self) {
        let before = self.known.lock().stamp;
        self.reload(before).await;
    }

    /// Reads the file anew if it changed since the last look.
    async fn look_again(&self) {
        let before = {
            let mut known = self.known.lock();
            if known.looked.elapsed() < LOOK_EVERY {
                return;
            }
            known.looked = Instant::now();
            known.stamp
        };
        self.reload(before).await;
    }

    async fn reload(&self, before: Option<Stamp>) {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let stamp = Stamp::of(&path);
            (stamp != before).then(|| (stamp, UserFile::load(&path)))
        });
        let Ok(Some((stamp, loaded))) = read.await else { return };
        let mut known = self.known.lock();
        match loaded {
            Ok(file) => {
                *known = Known::new(Users::new(&file), stamp, known.had_users);
                if known.users.is_empty() && known.had_users && self.anonymous != Anonymous::Always {
                    tracing::warn!(
                        path = %self.path.display(),
                        "the users are gone, so every request is refused; add a user, or restart the server if it \
                         should be open"
                    );
                } else {
                    let users = known.users.by_name.len();
                    tracing::info!(path = %self.path.display(), users, "users file read again");
                }
            }
            Err(error) => {
                // Locking everybody out over a half-edited file would help nobody: the users as they were stay.
                known.stamp = stamp;
                tracing::error!(error = chain(&error), "users file cannot be used; the users read before stay");
            }
        }
    }
}

impl Known {
    fn new(users: Users, stamp: Option<Stamp>, had_users: bool) -> Self {
        let had_users = had_users || !users.is_empty();
        Self { users: Arc::new(users), had_users, checked: HashMap::new(), stamp, looked: Instant::now() }
    }
}

/// The credentials of a request.
enum Given {
    /// The password as UTF-8 bytes.
    Pair {
        name: String,
        password: Vec<u8>,
    },
    Token(String),
}

impl Given {
    /// What the headers hold. `Authorization` decides where both are there: a proxy may want a key of its own.
    fn read(headers: &HeaderMap) -> Result<Option<Self>, ServeError> {
        let refused = |reason| Err(ServeError::Unauthorized { reason });
        for (name, twice) in
            [(AUTHORIZATION, "more than one Authorization header"), (X_API_KEY, "more than one X-Api-Key header")]
        {
            let mut values = headers.get_all(&name).iter();
            let Some(value) = values.next() else { continue };
            if values.next().is_some() {
                return refused(twice);
            }
            let value = value.as_bytes().trim_ascii();
            if name == X_API_KEY {
                return Self::token(value).map(Some);
            }
            let at = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
            let (scheme, rest) = value.split_at_checked(at).unwrap_or((value, &[]));
            let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());
            return match rest.trim_ascii() {
                rest if is("basic") => Self::pair(rest).map(Some),
                rest if is("bearer") || is("token") => Self::token(rest).map(Some),
                _ => refused("neither the scheme Basic nor Bearer nor Token"),
            };
        }
        Ok(None)
    }

    fn token(value: &[u8]) -> Result<Self, ServeError> {
        match std::str::from_utf8(value) {
            Ok(text) if text.len() <= MAX_PASSWORD_BYTES => Ok(Given::Token(text.to_owned())),
            _ => Err(ServeError::BadToken { reason: "not a token", expired: false }),
        }
    }

    fn pair(encoded: &[u8]) -> Result<Self, ServeError> {
        let refused = |reason| ServeError::Unauthorized { reason };
        let decoded = BASE64.decode(encoded).map_err(|_| refused("not Base64"))?;
        // Some clients send ISO 8859-1, whose bytes are the first code points of Unicode.
        let text =
            String::from_utf8(decoded).unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect());
        let (name, password) = text.split_once(':').ok_or(refused("no `:` in the credentials"))?;
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(refused("password too long"));
        }
        Ok(Given::Pair { name: name.to_owned(), password: password.as_bytes().to_vec() })
    }

    /// Whom it names; a token names nobody before it was looked up.
    fn name(&self) -> Option<&str> {
        match self {
            Given::Pair { name, .. } => Some(name),
            Given::Token(text) => tokens::id_of(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use argon2::Params;
    use axum::http::HeaderValue;

    use super::*;
    use crate::serve::options::AuthOptions;
    use crate::serve::users::hash_password;

    fn cheap(password: &str) -> String {
        hash_password(password, Params::new(Params::MIN_M_COST, 1, 1, None).expect("parameters")).expect("hash")
    }

    fn options(folder: &Path) -> Options {
        let auth = AuthOptions { users: folder.join("users.json"), ..AuthOptions::default() };
        Options { auth, ..Options::default() }
    }

    fn gate(options: &Options, users: &[(&str, &str)]) -> Gate {
        let mut file = UserFile::load(&options.auth.users).expect("users");
        for (name, password) in users {
            file.add_hashed(name, cheap(password)).expect("add");
        }
        Gate::open(options).expect("opens")
    }

    fn with(value: &[u8]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_bytes(value).expect("a header"));
        headers
    }

    fn pair(name_and_password: &[u8]) -> HeaderMap {
        with(format!("Basic {}", BASE64.encode(name_and_password)).as_bytes())
    }

    fn user(name: &str) -> Option<Identity> {
        Some(Identity::User(Arc::new(User { name: name.to_owned(), groups: Vec::new(), how: How::Password })))
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    impl Gate {
        /// A request without a certificate.
        async fn asked(&self, headers: &HeaderMap) -> Result<Identity, ServeError> {
            self.admit(headers, HERE, None).await
        }

        fn forget_failures(&mut self) {
            self.failures = Failures::default();
        }
    }

    #[tokio::test]
    async fn only_right_pairs_pass() {
        let folder = tempfile::tempdir().expect("folder");
        let mut gate = gate(&options(folder.path()), &[("ann", "s:ecret"), ("Zoë", "pässword")]);
        let token = BASE64.encode("ann:s:ecret");
        let cases = [
            (pair(b"ann:s:ecret"), user("ann")),
            (with(format!("basic {token}").as_bytes()), user("ann")),
            (with(format!("BASIC   {} ", token.trim_end_matches('=')).as_bytes()), user("ann")),
            (pair("Zoë:pässword".as_bytes()), user("Zoë")),
            (pair(b"Zo\xeb:p\xe4ssword"), user("Zoë")),
            (pair(b"ann:secret"), None),
            (pair(b"ann:"), None),
            (pair(b"bob:s:ecret"), None),
            (pair(b":s:ecret"), None),
            (pair(b"ann"), None),
            (pair("Zoë:passwörd".as_bytes()), None),
            (with(b"Basic !!!"), None),
            (with(b"Basic"), None),
            (with(format!("Basic{token}").as_bytes()), None),
            (with(format!("Bearer {token}").as_bytes()), None),
            (with(b"\xff"), None),
            (pair(format!("ann:{}", "x".repeat(2000)).as_bytes()), None),
            (HeaderMap::new(), None),
        ];
        // Twice: the second round finds the right pairs remembered.
        for (headers, expected) in cases.iter().chain(&cases) {
            gate.forget_failures();
            assert_eq!(gate.asked(headers).await.ok(), *expected, "{headers:?}");
        }
        let mut doubled = pair(b"ann:s:ecret");
        doubled.append(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        assert!(gate.asked(&doubled).await.is_err());
    }

    #[tokio::test]
    async fn a_checked_pair_is_not_hashed_again() {
        let folder = tempfile::tempdir().expect("folder");
        let gate = gate(&options(folder.path()), &[("ann", "secret")]);
        assert!(gate.asked(&pair(b"ann:secret")).await.is_ok());
        // With no thread to hash on, only a remembered pair can still pass.
        gate.hashing.close();
        assert_eq!(gate.asked(&pair(b"ann:secret")).await.ok(), user("ann"));
        assert!(matches!(gate.asked(&pair(b"ann:wrong")).await, Err(ServeError::Internal { .. })));
        // An unknown name takes the same way as a wrong password: it asks for a thread.
        assert!(matches!(gate.asked(&pair(b"bob:secret")).await, Err(ServeError::Internal { .. })));
        if let Some(checked) = gate.known.lock().checked.get_mut("ann") {
            checked.until = Instant::now();
        }
        assert!(gate.asked(&pair(b"ann:secret")).await.is_err(), "forgotten after its time");
    }

    #[tokio::test]
    async fn waiting_checks_are_bounded() {
        let folder = tempfile::tempdir().expect("folder");
        let gate = gate(&options(folder.path()), &[("ann", "secret")]);
        let mut others = Tally::share(&gate.waiting);
        assert!(others.grow_to(MAX_WAITING, MAX_WAITING));
        assert!(matches!(gate.asked(&pair(b"ann:secret")).await, Err(ServeError::Busy { .. })));
        assert_eq!(gate.waiting.used(), MAX_WAITING, "a refused check leaves the queue");
    }

    #[tokio::test]
    async fn changes_are_picked_up_and_a_broken_file_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let options = options(folder.path());
        let gate = gate(&options, &[("ann", "secret")]);
        assert!(gate.asked(&pair(b"ann:secret")).await.is_ok());

        let stamp = || gate.known.lock().stamp;
        let mut file = UserFile::load(&options.auth.users).expect("users");
        file.add_hashed("ann", cheap("other")).expect("change");
        gate.reload(stamp()).await;
        assert!(gate.asked(&pair(b"ann:secret")).await.is_err(), "the old password is no longer remembered");
        assert!(gate.asked(&pair(b"ann:other")).await.is_ok());

        std::fs::write(&options.auth.users, "{").expect("write");
        gate.reload(stamp()).await;
        assert!(gate.asked(&pair(b"ann:other")).await.is_ok());
    }

    #[tokio::test]
    async fn a_gate_that_had_users_opens_to_nobody_when_they_go() {
        type Change = fn(&Path);
        let vanish: Change = |path| std::fs::remove_file(path).expect("remove");
        let last_removed: Change = |path| UserFile::load(path).and_then(|mut file| file.remove("ann")).expect("remove");
        // anonymous, users at the start → anonymous passes at the start, with a user, after the user is gone
        let cases = [
            (None, true, [false, false, false]),
            (None, false, [true, false, false]),
            (Some(false), true, [false, false, false]),
            (Some(true), true, [true, true, true]),
        ];
        for change in [vanish, last_removed] {
            for (anonymous, at_start, expected) in cases {
                let folder = tempfile::tempdir().expect("folder");
                let mut options = options(folder.path());
                options.auth.anonymous = anonymous;
                let gate = gate(&options, if at_start { &[("ann", "secret")] } else { &[] });
                let stamp = || gate.known.lock().stamp;
                let passes = async || gate.asked(&HeaderMap::new()).await.is_ok();
                let mut passed = [passes().await, false, false];
                if !at_start {
                    let mut file = UserFile::load(&options.auth.users).expect("users");
                    file.add_hashed("ann", cheap("secret")).expect("add");
                    gate.reload(stamp()).await;
                }
                passed[1] = passes().await;
                change(&options.auth.users);
                gate.reload(stamp()).await;
                passed[2] = passes().await;
                assert_eq!(passed, expected, "{anonymous:?} {at_start}");
                assert_eq!(gate.asked(&pair(b"ann:secret")).await.is_ok(), expected[2], "as anyone, or not at all");

                let mut file = UserFile::load(&options.auth.users).expect("users");
                file.add_hashed("bob", cheap("secret")).expect("add");
                gate.reload(stamp()).await;
                assert_eq!(gate.asked(&pair(b"bob:secret")).await.ok(), user("bob"), "{anonymous:?} {at_start}");
            }
        }
    }

    #[tokio::test]
    async fn who_may_come_in_without_a_name() {
        const HERE: &str = "127.0.0.1:9000";
        const THERE: &str = "0.0.0.0:9000";
        // listen, anonymous, off loopback, users → starts, anonymous passes
        let cases = [
            (HERE, None, false, false, Some(true)),
            ("[::1]:9000", None, false, false, Some(true)),
            (HERE, None, false, true, Some(false)),
            (HERE, Some(true), false, true, Some(true)),
            (HERE, Some(false), false, false, Some(false)),
            (THERE, None, false, false, None),
            (THERE, Some(true), false, false, None),
            (THERE, Some(false), true, false, None),
            (THERE, None, true, false, None),
            (THERE, Some(true), true, false, Some(true)),
            (THERE, Some(true), true, true, Some(true)),
            (THERE, Some(true), false, true, Some(false)),
            (THERE, None, false, true, Some(false)),
        ];
        for (listen, anonymous, anonymous_off_loopback, has_users, expected) in cases {
            let folder = tempfile::tempdir().expect("folder");
            let mut options = options(folder.path());
            options.listen = listen.parse().expect("an address");
            options.auth.anonymous = anonymous;
            options.auth.anonymous_off_loopback = anonymous_off_loopback;
            if has_users {
                let mut file = UserFile::load(&options.auth.users).expect("users");
                file.add_hashed("ann", cheap("secret")).expect("add");
            }
            let passes = match Gate::open(&options) {
                Ok(gate) => Some(gate.asked(&HeaderMap::new()).await.is_ok()),
                Err(StartError::OpenToAll { .. }) => None,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(passes, expected, "{listen} {anonymous:?} {anonymous_off_loopback} {has_users}");
        }
    }
}
