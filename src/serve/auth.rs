//! HTTP Basic (RFC 7617) against the users file.
//!
//! Hashing a password costs tens of milliseconds and 19 MiB, and clients send it with every request. So a pair that was
//! checked is remembered for five minutes as an HMAC under a key that lives and dies with the process; hashing runs on
//! blocking threads, as many at once as there are cores, and only so many may wait. A name that does not exist costs a
//! hash like a wrong password does.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use argon2::password_hash::rand_core::{OsRng, RngCore};
use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
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

use crate::serve::error::{ServeError, StartError, chain};
use crate::serve::options::Options;
use crate::serve::router::App;
use crate::serve::stamp::Stamp;
use crate::serve::users::{MAX_PASSWORD_BYTES, UserFile, UserRecord, verify_password};

/// How long a checked pair is taken without hashing again.
const REMEMBERED: Duration = Duration::from_secs(300);
/// How often, at most, the users file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Password checks that may wait for a thread; further ones are told to come back.
const MAX_WAITING: usize = 64;

/// Clients disagree about padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Who sent a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nobody said, and nobody needs to.
    Anonymous,
    /// A user whose password was right.
    User(Arc<str>),
}

impl Identity {
    /// The name for the access log.
    pub(super) fn name(&self) -> &str {
        match self {
            Identity::Anonymous => "-",
            Identity::User(name) => name,
        }
    }
}

/// Refuses requests that nobody known sent; puts the [`Identity`] into request and response.
pub(super) async fn authenticate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    match app.gate.admit(request.headers()).await {
        Ok(identity) => {
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
    known: Mutex<Known>,
    /// Keyed, ready to be cloned for a digest.
    keyed: Hmac<Sha256>,
    hashing: Semaphore,
    waiting: AtomicUsize,
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
    /// Who need not be one of them.
    pub anonymous: Anonymous,
}

impl Admission {
    /// Reads the users file as a server that starts with these options would.
    pub(super) fn examine(options: &Options) -> Result<Self, StartError> {
        let users: Vec<String> = UserFile::load(&options.auth.users)?.list().map(str::to_owned).collect();
        let anonymous = Anonymous::settle(options, users.is_empty())?;
        Ok(Self { users, anonymous })
    }
}

/// What was last read from the users file, and who was checked since.
#[derive(Debug)]
struct Known {
    users: Arc<HashMap<String, UserRecord>>,
    /// Whether there were any since the start.
    had_users: bool,
    /// Hash that stands in for a name that does not exist.
    decoy: Option<Arc<str>>,
    checked: HashMap<String, Checked>,
    stamp: Option<Stamp>,
    looked: Instant,
}

#[derive(Debug)]
struct Checked {
    digest: Digest,
    until: Instant,
}

impl Gate {
    /// Reads the users and settles who may come in without being one of them.
    pub(super) fn open(options: &Options) -> Result<Self, StartError> {
        let auth = &options.auth;
        let stamp = Stamp::of(&auth.users);
        let records = UserFile::load(&auth.users)?.into_records();
        let anonymous = Anonymous::settle(options, records.is_empty())?;
        if records.is_empty() && anonymous == Anonymous::Never {
            tracing::warn!(users = %auth.users.display(), "there are no users yet, so every request is refused");
        }
        let mut key = [0; 64];
        OsRng.fill_bytes(&mut key);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            path: auth.users.clone(),
            anonymous,
            known: Mutex::new(Known::new(records, stamp, false)),
            keyed: Hmac::new(&key.into()),
            hashing: Semaphore::new(threads),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Decides on one request.
    pub(super) async fn admit(&self, headers: &HeaderMap) -> Result<Identity, ServeError> {
        self.look_again().await;
        let (users, decoy, had_users) = {
            let known = self.known.lock();
            (Arc::clone(&known.users), known.decoy.clone(), known.had_users)
        };
        let open = match self.anonymous {
            Anonymous::Always => true,
            Anonymous::UntilUsers => !had_users,
            Anonymous::Never => false,
        };
        // Without users nobody's credentials can be right: on an open server they are then as good as none.
        if open && (users.is_empty() || !headers.contains_key(AUTHORIZATION)) {
            return Ok(Identity::Anonymous);
        }
        let (name, password) = credentials(headers)?;
        let Some(decoy) = decoy else { return Err(ServeError::Unauthorized { reason: "there are no users" }) };

        let digest = self.digest(&name, &password);
        if self.remembers(&name, &digest) {
            return Ok(Identity::User(name.into()));
        }
        let user = users.get(&name);
        let hash: Arc<str> = user.map_or(decoy, |user| user.hash.as_str().into());
        let right = self.verify(Arc::clone(&hash), password, &name, &digest).await?;
        match user {
            Some(user) if right => {
                self.remember(user, digest);
                Ok(Identity::User(name.into()))
            }
            Some(_) => Err(ServeError::Unauthorized { reason: "wrong password" }),
            None => Err(ServeError::Unauthorized { reason: "unknown user" }),
        }
    }

    /// Hashes on a blocking thread. A pair that was found right while this one waited is not hashed again.
    async fn verify(&self, hash: Arc<str>, password: Vec<u8>, name: &str, digest: &Digest) -> Result<bool, ServeError> {
        let _place = Place::take(&self.waiting).ok_or(ServeError::Busy { what: "password checks" })?;
        let _permit =
            self.hashing.acquire().await.map_err(|_| ServeError::Internal { what: "password checks closed" })?;
        if self.remembers(name, digest) {
            return Ok(true);
        }
        tokio::task::spawn_blocking(move || verify_password(&hash, &password))
            .await
            .map_err(|_| ServeError::Internal { what: "a password check panicked" })
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

    /// One entry a user, so never more than the file has lines. Not kept if the user changed meanwhile.
    fn remember(&self, user: &UserRecord, digest: Digest) {
        let mut known = self.known.lock();
        if known.users.get(&user.name) == Some(user) {
            known.checked.insert(user.name.clone(), Checked { digest, until: Instant::now() + REMEMBERED });
        }
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
                *known = Known::new(file.into_records(), stamp, known.had_users);
                if known.users.is_empty() && known.had_users && self.anonymous != Anonymous::Always {
                    tracing::warn!(
                        path = %self.path.display(),
                        "the users are gone, so every request is refused; add a user, or restart the server if it \
                         should be open"
                    );
                } else {
                    tracing::info!(path = %self.path.display(), users = known.users.len(), "users file read again");
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
    fn new(records: Vec<UserRecord>, stamp: Option<Stamp>, had_users: bool) -> Self {
        let had_users = had_users || !records.is_empty();
        let decoy = records.first().map(|user| user.hash.as_str().into());
        let users = records.into_iter().map(|user| (user.name.clone(), user)).collect();
        Self { users: Arc::new(users), had_users, decoy, checked: HashMap::new(), stamp, looked: Instant::now() }
    }
}

/// A place in the queue of password checks.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Place(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Name and password of the request, the password as UTF-8 bytes. The scheme's name is taken in any case.
fn credentials(headers: &HeaderMap) -> Result<(String, Vec<u8>), ServeError> {
    let refused = |reason| ServeError::Unauthorized { reason };
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(refused("no credentials"))?;
    if values.next().is_some() {
        return Err(refused("more than one Authorization header"));
    }
    let encoded = basic(value).ok_or(refused("not the Basic scheme"))?;
    let decoded = BASE64.decode(encoded).map_err(|_| refused("not Base64"))?;
    // Some clients send ISO 8859-1, whose bytes are the first code points of Unicode.
    let text =
        String::from_utf8(decoded).unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect());
    let (name, password) = text.split_once(':').ok_or(refused("no `:` in the credentials"))?;
    if password.len() > MAX_PASSWORD_BYTES {
        return Err(refused("password too long"));
    }
    Ok((name.to_owned(), password.as_bytes().to_vec()))
}

fn basic(value: &HeaderValue) -> Option<&[u8]> {
    let (scheme, rest) = value.as_bytes().trim_ascii().split_at_checked(5)?;
    let blank = rest.first() == Some(&b' ');
    (scheme.eq_ignore_ascii_case(b"basic") && blank).then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use argon2::Params;

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
        Some(Identity::User(name.into()))
    }

    #[tokio::test]
    async fn only_right_pairs_pass() {
        let folder = tempfile::tempdir().expect("folder");
        let gate = gate(&options(folder.path()), &[("ann", "s:ecret"), ("Zoë", "pässword")]);
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
            assert_eq!(gate.admit(headers).await.ok(), *expected, "{headers:?}");
        }
        let mut doubled = pair(b"ann:s:ecret");
        doubled.append(AUTHORIZATION, HeaderValue::from_static("Basic eDp5"));
        assert!(gate.admit(&doubled).await.is_err());
    }

    #[tokio::test]
    async fn a_checked_pair_is_not_hashed_again() {
        let folder = tempfile::tempdir().expect("folder");
        let gate = gate(&options(folder.path()), &[("ann", "secret")]);
        assert!(gate.admit(&pair(b"ann:secret")).await.is_ok());
        // With no thread to hash on, only a remembered pair can still pass.
        gate.hashing.close();
        assert_eq!(gate.admit(&pair(b"ann:secret")).await.ok(), user("ann"));
        assert!(matches!(gate.admit(&pair(b"ann:wrong")).await, Err(ServeError::Internal { .. })));
        // An unknown name takes the same way as a wrong password: it asks for a thread.
        assert!(matches!(gate.admit(&pair(b"bob:secret")).await, Err(ServeError::Internal { .. })));
        if let Some(checked) = gate.known.lock().checked.get_mut("ann") {
            checked.until = Instant::now();
        }
        assert!(gate.admit(&pair(b"ann:secret")).await.is_err(), "forgotten after its time");
    }

    #[tokio::test]
    async fn waiting_checks_are_bounded() {
        let folder = tempfile::tempdir().expect("folder");
        let gate = gate(&options(folder.path()), &[("ann", "secret")]);
        gate.waiting.store(MAX_WAITING, Ordering::Relaxed);
        assert!(matches!(gate.admit(&pair(b"ann:secret")).await, Err(ServeError::Busy { .. })));
        assert_eq!(gate.waiting.load(Ordering::Relaxed), MAX_WAITING, "a refused check leaves the queue");
    }

    #[tokio::test]
    async fn changes_are_picked_up_and_a_broken_file_is_not() {
        let folder = tempfile::tempdir().expect("folder");
        let options = options(folder.path());
        let gate = gate(&options, &[("ann", "secret")]);
        assert!(gate.admit(&pair(b"ann:secret")).await.is_ok());

        let stamp = || gate.known.lock().stamp;
        let mut file = UserFile::load(&options.auth.users).expect("users");
        file.add_hashed("ann", cheap("other")).expect("change");
        gate.reload(stamp()).await;
        assert!(gate.admit(&pair(b"ann:secret")).await.is_err(), "the old password is no longer remembered");
        assert!(gate.admit(&pair(b"ann:other")).await.is_ok());

        std::fs::write(&options.auth.users, "{").expect("write");
        gate.reload(stamp()).await;
        assert!(gate.admit(&pair(b"ann:other")).await.is_ok());
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
                let passes = async || gate.admit(&HeaderMap::new()).await.is_ok();
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
                assert_eq!(gate.admit(&pair(b"ann:secret")).await.is_ok(), expected[2], "as anyone, or not at all");

                let mut file = UserFile::load(&options.auth.users).expect("users");
                file.add_hashed("bob", cheap("secret")).expect("add");
                gate.reload(stamp()).await;
                assert_eq!(gate.admit(&pair(b"bob:secret")).await.ok(), user("bob"), "{anonymous:?} {at_start}");
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
                Ok(gate) => Some(gate.admit(&HeaderMap::new()).await.is_ok()),
                Err(StartError::OpenToAll { .. }) => None,
                Err(error) => panic!("{error}"),
            };
            assert_eq!(passes, expected, "{listen} {anonymous:?} {anonymous_off_loopback} {has_users}");
        }
    }
}
