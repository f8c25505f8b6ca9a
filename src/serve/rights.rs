//! Who may know of, read and write what (spec/taxii-2.md §10), and how a lack of rights is answered.
//!
//! The lists of the configuration name users (`ann`), groups (`@analysts`), every user (`@users`), requests without
//! credentials (`anonymous`, which users may make as well) and everyone (`*`). A collection's own list counts; where it
//! has none, that of the API root it is asked for in; where that has none, whoever comes in may read, and every user may
//! write to inboxes. On a server without users that only this machine can reach, nobody counts as a user there.
//!
//! One knows of a collection when one may read or write it. One knows of an API root when its own lists name one, or when
//! one knows of a collection in it. What one does not know of is answered exactly as what does not exist: 404, and 401
//! to those who have not said who they are where they could have, since saying so may change it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use parking_lot::RwLock;

use crate::feed::collection::{Catalog, Collection};
use crate::serve::auth::{Identity, Nobody};
use crate::serve::error::{ServeError, cut};
use crate::serve::options::{ApiRoot, Options};
use crate::serve::router::App;

/// Every user, in a list.
pub(crate) const USERS: &str = "@users";
/// Requests without credentials, in a list.
pub(crate) const ANONYMOUS: &str = "anonymous";
/// Everyone, in a list.
pub(crate) const EVERYONE: &str = "*";

/// Path of the API root that a request is in, among its extensions.
#[derive(Clone, Debug)]
pub(super) struct Root(pub(super) Arc<str>);

/// Who asks for something in which API root.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub(super) identity: Identity,
    /// Path of the API root.
    pub(super) root: Arc<str>,
}

impl Visit {
    /// How a path is answered that names nothing there could be.
    pub(super) fn no_such_path(&self) -> ServeError {
        hidden(&self.identity, ServeError::UnknownPath)
    }
}

impl<S: Sync> FromRequestParts<S> for Visit {
    type Rejection = ServeError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ServeError> {
        match (parts.extensions.get::<Identity>(), parts.extensions.get::<Root>()) {
            (Some(identity), Some(Root(root))) => Ok(Self { identity: identity.clone(), root: Arc::clone(root) }),
            _ => Err(ServeError::Internal { what: "a request without its sender or its API root" }),
        }
    }
}

/// What one may do with a collection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Read its objects.
    pub read: bool,
    /// Add objects; with `read` also delete them.
    pub write: bool,
}

impl Allowed {
    /// Whether one may know that the collection exists.
    pub fn knows(self) -> bool {
        self.read || self.write
    }
}

/// The collection of that id or alias, to be read.
pub(super) fn readable(
    app: &App,
    identity: &Identity,
    root: &str,
    collection: &str,
) -> Result<Arc<Collection>, ServeError> {
    app.rights().readable(identity, root, collection)
}

/// The inbox of that id or alias, to be written to.
pub(super) fn writable(
    app: &App,
    identity: &Identity,
    root: &str,
    collection: &str,
) -> Result<Arc<Collection>, ServeError> {
    app.rights().writable(identity, root, collection)
}

/// The inbox of that id or alias, to delete from (TAXII 2.1 §5.7).
pub(super) fn deletable(
    app: &App,
    identity: &Identity,
    root: &str,
    collection: &str,
) -> Result<Arc<Collection>, ServeError> {
    app.rights().deletable(identity, root, collection)
}

/// How something is answered that is not there, or not for this requester: `not_found`, or 401 where saying who one is
/// could change it.
pub(super) fn hidden(identity: &Identity, not_found: ServeError) -> ServeError {
    if could_say(identity) { UNSAID } else { not_found }
}

const UNSAID: ServeError = ServeError::Unauthorized { reason: "no credentials, and anonymous may not do this" };

/// Whether there are users, and the request names none.
fn could_say(identity: &Identity) -> bool {
    matches!(identity, Identity::Anonymous(Nobody::AmongUsers))
}

/// How something is answered that one knows of and may not do.
pub(super) fn forbidden(identity: &Identity, what: &'static str) -> ServeError {
    if could_say(identity) { UNSAID } else { ServeError::Forbidden { what } }
}

/// One list of the configuration, ready to be asked.
#[derive(Debug, Default)]
pub(super) struct Rule {
    everyone: bool,
    users: bool,
    /// Nobody counts as a user on a server that has none and that only this machine can reach.
    nobody_at_home: bool,
    names: HashSet<String>,
    groups: HashSet<String>,
}

impl Rule {
    pub(super) fn of(list: &[String]) -> Self {
        let mut rule = Self::default();
        for name in list {
            match name.as_str() {
                EVERYONE | ANONYMOUS => rule.everyone = true,
                USERS => rule.users = true,
                name => match name.strip_prefix('@') {
                    Some(group) => drop(rule.groups.insert(group.to_owned())),
                    None => drop(rule.names.insert(name.to_owned())),
                },
            }
        }
        rule
    }

    /// Where nothing says who may read.
    fn whoever_comes_in() -> Self {
        Self { everyone: true, ..Self::default() }
    }

    /// Where nothing says who may write.
    fn every_user() -> Self {
        Self { users: true, nobody_at_home: true, ..Self::default() }
    }

    /// Whether those are named who do not say who they are.
    pub(super) fn takes_everyone(&self) -> bool {
        self.everyone
    }

    pub(super) fn allows(&self, identity: &Identity) -> bool {
        self.everyone
            || match identity {
                Identity::Anonymous(nobody) => self.nobody_at_home && *nobody == Nobody::AtHome,
                Identity::User(user) => {
                    self.users
                        || self.names.contains(&user.name)
                        || user.groups.iter().any(|group| self.groups.contains(group))
                }
            }
    }
}

/// The rights of all collections of a catalogue in all API roots.
#[derive(Debug)]
pub(super) struct Rights {
    catalog: Arc<Catalog>,
    roots: Vec<RootRights>,
}

#[derive(Debug)]
struct RootRights {
    path: String,
    /// Its lists; where it has none, nobody is named by them for writing, and everyone for reading.
    named: [Arc<Rule>; 2],
    by_id: HashMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    inbox: bool,
    read: Arc<Rule>,
    write: Arc<Rule>,
}

impl Entry {
    fn allowed(&self, identity: &Identity) -> Allowed {
        Allowed { read: self.read.allows(identity), write: self.inbox && self.write.allows(identity) }
    }
}

impl Rights {
    /// Works them out once, so that a request only looks them up.
    pub(super) fn new(options: &Options, catalog: Arc<Catalog>) -> Self {
        let roots =
            options.api_roots.iter().enumerate().map(|(at, root)| RootRights::new(root, at == 0, &catalog)).collect();
        Self { catalog, roots }
    }

    fn root(&self, path: &str) -> Option<&RootRights> {
        self.roots.iter().find(|root| root.path == path)
    }

    /// Whether that API root exists for the requester.
    pub(super) fn knows_root(&self, identity: &Identity, path: &str) -> bool {
        self.root(path).is_some_and(|root| root.known_to(identity))
    }

    /// A collection that the requester may know of, and what it may do with it.
    pub(super) fn known(
        &self,
        identity: &Identity,
        root: &str,
        collection: &str,
    ) -> Result<(Arc<Collection>, Allowed), ServeError> {
        let Some(root) = self.root(root).filter(|root| root.known_to(identity)) else {
            return Err(hidden(identity, ServeError::UnknownApiRoot { name: cut(root) }));
        };
        let found = self.catalog.get(collection).and_then(|found| {
            let allowed = root.by_id.get(&found.id)?.allowed(identity);
            allowed.knows().then(|| (Arc::clone(found), allowed))
        });
        found.ok_or_else(|| hidden(identity, ServeError::UnknownCollection { name: cut(collection) }))
    }

    fn readable(&self, identity: &Identity, root: &str, collection: &str) -> Result<Arc<Collection>, ServeError> {
        match self.known(identity, root, collection)? {
            (collection, Allowed { read: true, .. }) => Ok(collection),
            _ => Err(forbidden(identity, "read this collection")),
        }
    }

    /// The same in whichever API root it may be read in, and that root's path.
    pub(super) fn readable_somewhere(
        &self,
        identity: &Identity,
        collection: &str,
    ) -> Result<(Arc<Collection>, &str), ServeError> {
        let mut refusal = None;
        for root in &self.roots {
            match self.readable(identity, &root.path, collection) {
                Ok(found) => return Ok((found, &root.path)),
                Err(error @ ServeError::Forbidden { .. }) => refusal = Some(error),
                Err(_) => {}
            }
        }
        Err(refusal.unwrap_or_else(|| hidden(identity, ServeError::UnknownCollection { name: cut(collection) })))
    }

    fn writable(&self, identity: &Identity, root: &str, collection: &str) -> Result<Arc<Collection>, ServeError> {
        match self.known(identity, root, collection)? {
            (collection, _) if !collection.inbox => Err(ServeError::ReadOnly { title: collection.title.clone() }),
            (collection, Allowed { write: true, .. }) => Ok(collection),
            _ => Err(forbidden(identity, "add objects to this collection")),
        }
    }

    fn deletable(&self, identity: &Identity, root: &str, collection: &str) -> Result<Arc<Collection>, ServeError> {
        match self.known(identity, root, collection)? {
            (collection, _) if !collection.inbox => Err(ServeError::ReadOnly { title: collection.title.clone() }),
            (collection, Allowed { read: true, write: true }) => Ok(collection),
            _ => Err(forbidden(
                identity,
                "delete objects from this collection, which takes the right to read and to write",
            )),
        }
    }

    /// What the requester may know of in that API root, ascending by id.
    pub(super) fn listed<'a>(
        &'a self,
        identity: &'a Identity,
        root: &str,
    ) -> impl Iterator<Item = (&'a Arc<Collection>, Allowed)> {
        self.among(self.catalog.iter(), identity, root)
    }

    /// The same in the order of the configuration.
    pub(super) fn configured<'a>(
        &'a self,
        identity: &'a Identity,
        root: &str,
    ) -> impl Iterator<Item = (&'a Arc<Collection>, Allowed)> {
        self.among(self.catalog.configured(), identity, root)
    }

    fn among<'a>(
        &'a self,
        collections: impl Iterator<Item = &'a Arc<Collection>>,
        identity: &'a Identity,
        root: &str,
    ) -> impl Iterator<Item = (&'a Arc<Collection>, Allowed)> {
        let root = self.root(root);
        collections.filter_map(move |collection| {
            let allowed = root?.by_id.get(&collection.id)?.allowed(identity);
            allowed.knows().then_some((collection, allowed))
        })
    }
}

impl RootRights {
    fn new(root: &ApiRoot, is_default: bool, catalog: &Catalog) -> Self {
        let rule = |list: &Option<Vec<String>>| list.as_ref().map(|list| Arc::new(Rule::of(list)));
        let (read, write) = (rule(&root.access.read), rule(&root.access.write));
        let read = read.unwrap_or_else(|| Arc::new(Rule::whoever_comes_in()));
        let named = [Arc::clone(&read), write.clone().unwrap_or_default()];
        let write = write.unwrap_or_else(|| Arc::new(Rule::every_user()));
        let here = |collection: &&Arc<Collection>| is_in(&collection.api_roots, &root.path, is_default);
        let entry = |collection: &Arc<Collection>| {
            let entry = Entry {
                inbox: collection.inbox,
                read: rule(&collection.access.read).unwrap_or_else(|| Arc::clone(&read)),
                write: rule(&collection.access.write).unwrap_or_else(|| Arc::clone(&write)),
            };
            (collection.id.clone(), entry)
        };
        Self { path: root.path.clone(), named, by_id: catalog.iter().filter(here).map(entry).collect() }
    }

    fn known_to(&self, identity: &Identity) -> bool {
        self.named.iter().any(|rule| rule.allows(identity))
            || self.by_id.values().any(|entry| entry.allowed(identity).knows())
    }
}

/// Whether a collection that names these API roots is in that one.
fn is_in(named: &[String], root: &str, is_default: bool) -> bool {
    match named {
        [] => is_default,
        roots => roots.iter().any(|path| path == root),
    }
}

/// The API roots that a collection is in which names these.
pub fn roots_of<'a>(options: &'a Options, named: &[String]) -> impl Iterator<Item = &'a ApiRoot> {
    let roots = options.api_roots.iter().enumerate();
    roots.filter(|(at, root)| is_in(named, &root.path, *at == 0)).map(|(_, root)| root)
}

/// What somebody may do in an API root.
#[derive(Clone, Debug)]
pub struct InRoot {
    /// Path of the root.
    pub path: String,
    /// Whether it is there for them.
    pub known: bool,
    /// Every collection in it, ascending by id.
    pub collections: Vec<(Arc<Collection>, Allowed)>,
}

/// What somebody may do in each API root of a server with these options, for operators: what is hidden is there as well.
pub fn effects(options: &Options, catalog: Arc<Catalog>, identity: &Identity) -> Vec<InRoot> {
    let rights = Rights::new(options, catalog);
    let in_root = |root: &RootRights| InRoot {
        path: root.path.clone(),
        known: root.known_to(identity),
        collections: rights
            .catalog
            .iter()
            .filter_map(|it| Some((Arc::clone(it), root.by_id.get(&it.id)?.allowed(identity))))
            .collect(),
    };
    rights.roots.iter().map(in_root).collect()
}

/// The rights of the catalogue that is served now.
#[derive(Debug, Default)]
pub(super) struct Current(RwLock<Option<Arc<Rights>>>);

impl Current {
    /// Works them out anew when the catalogue is another one than before.
    pub(super) fn of(&self, options: &Options, catalog: Arc<Catalog>) -> Arc<Rights> {
        if let Some(rights) = self.0.read().as_ref().filter(|rights| Arc::ptr_eq(&rights.catalog, &catalog)) {
            return Arc::clone(rights);
        }
        let rights = Arc::new(Rights::new(options, catalog));
        *self.0.write() = Some(Arc::clone(&rights));
        rights
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;

    use super::*;
    use crate::feed::collection::{Access, CollectionSpec, Options as FeedOptions, QueryText};
    use crate::model::ids::{IdScheme, IdSpace};
    use crate::serve::auth::{How, User};

    fn user(name: &str, groups: &[&str]) -> Identity {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        Identity::User(Arc::new(User { name: name.to_owned(), groups, how: How::Password }))
    }

    fn list(names: &[&str]) -> Option<Vec<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn rights(roots: Vec<ApiRoot>, specs: &[CollectionSpec]) -> Rights {
        let ids = IdSpace::new("test", IdScheme::Stix);
        let built = specs.iter().map(|spec| spec.build(&ids, &FeedOptions::default()).expect("builds")).collect();
        let catalog = Arc::new(Catalog::new(built).expect("names differ"));
        Rights::new(&Options { api_roots: roots, ..Options::default() }, catalog)
    }

    fn spec(alias: &str, inbox: bool, read: Option<Vec<String>>, write: Option<Vec<String>>) -> CollectionSpec {
        CollectionSpec {
            alias: Some(alias.to_owned()),
            inbox,
            access: Access { read, write },
            ..CollectionSpec::new(alias, QueryText::Xsoar(String::new()))
        }
    }

    /// GET, POST and DELETE as status codes; 200 where the right is there.
    fn answers(rights: &Rights, identity: &Identity, root: &str, name: &str) -> [u16; 3] {
        type Ask = fn(&Rights, &Identity, &str, &str) -> Result<Arc<Collection>, ServeError>;
        let ask: [Ask; 3] = [Rights::readable, Rights::writable, Rights::deletable];
        ask.map(|ask| match ask(rights, identity, root, name) {
            Ok(_) => StatusCode::OK.as_u16(),
            Err(error) => error.outside().status.as_u16(),
        })
    }

    /// spec/taxii-2.md §10, row by row.
    #[test]
    fn all_combinations_of_rights_have_their_answers() {
        // Who asks, what a list calls them, whether they could say who they are.
        let identities = [
            (user("ann", &[]), "ann", false),
            (user("ann", &[]), "@users", false),
            (user("ann", &[]), "anonymous", false),
            (user("ann", &[]), "*", false),
            (user("bob", &["staff", "analysts"]), "@analysts", false),
            (Identity::Anonymous(Nobody::Open), "anonymous", false),
            (Identity::Anonymous(Nobody::AtHome), "anonymous", false),
            (Identity::Anonymous(Nobody::AmongUsers), "anonymous", true),
            (Identity::Anonymous(Nobody::AmongUsers), "*", true),
        ];
        for (identity, called, could_say) in &identities {
            let (named, others) = (["eve", *called], ["eve", "@others", "@ann", "analysts"]);
            let given = |given: bool| list(if given { &named } else { &others });
            let both = [false, true];
            let mut specs: Vec<CollectionSpec> = Vec::new();
            for (read, write) in both.into_iter().flat_map(|read| both.map(|write| (read, write))) {
                specs.push(spec(&format!("inbox-{read}-{write}"), true, given(read), given(write)));
                specs.push(spec(&format!("query-{read}-{write}"), false, given(read), given(write)));
            }
            let rights = rights(vec![ApiRoot::new("feeds")], &specs);
            let what = format!("{identity:?} as {called}");
            let unknown = if *could_say { [401; 3] } else { [404; 3] };
            let lacking = |status: u16| if *could_say && status == 403 { 401 } else { status };
            for (name, expected) in [
                ("inbox-true-true", [200, 200, 200]),
                ("inbox-true-false", [200, 403, 403]),
                ("inbox-false-true", [403, 200, 403]),
                ("inbox-false-false", unknown),
                ("query-false-true", unknown),
                ("query-false-false", unknown),
                ("nowhere", unknown),
                ("", unknown),
            ] {
                let expected = expected.map(lacking);
                assert_eq!(answers(&rights, identity, "feeds", name), expected, "{what}: {name}");
            }
            // Nobody can write to a query, whoever they may be.
            for name in ["query-true-true", "query-true-false"] {
                assert_eq!(answers(&rights, identity, "feeds", name), [200, 403, 403], "{what}: {name}");
            }
            assert_eq!(answers(&rights, identity, "elsewhere", "inbox-true-true"), unknown, "{what}");
        }
        // What names users does not name those without a name.
        let lists = (list(&["@users", "ann", "@analysts"]), list(&["@users"]));
        let rights = rights(vec![ApiRoot::new("feeds")], &[spec("users", true, lists.0, lists.1)]);
        for (nobody, expected) in [(Nobody::Open, 404), (Nobody::AtHome, 404), (Nobody::AmongUsers, 401)] {
            assert_eq!(answers(&rights, &Identity::Anonymous(nobody), "feeds", "users"), [expected; 3]);
        }
    }

    /// What is hidden reads as what is not there, to the last word.
    #[test]
    fn the_hidden_and_the_absent_are_one() {
        let closed = ApiRoot { access: Access { read: list(&["@soc"]), write: None }, ..ApiRoot::new("closed") };
        let mut inside = spec("inside", true, None, list(&["@soc"]));
        inside.api_roots = vec!["closed".to_owned()];
        let rights =
            rights(vec![ApiRoot::new("feeds"), closed], &[spec("secret", true, list(&["x"]), list(&[])), inside]);
        for identity in [user("ann", &[]), Identity::Anonymous(Nobody::Open), Identity::Anonymous(Nobody::AmongUsers)] {
            let said = |root: &str, name: &str| {
                let error = rights.readable(&identity, root, name).expect_err("not for them");
                format!("{:?}", error.outside()).replace(name, "NAME").replace(root, "ROOT")
            };
            assert_eq!(said("feeds", "secret"), said("feeds", "absent"), "{identity:?}");
            // A collection of another root, too.
            assert_eq!(said("feeds", "inside"), said("feeds", "absent"), "{identity:?}");
            assert_eq!(said("closed", "inside"), said("nowhere", "inside"), "{identity:?}");
        }
        assert_eq!(answers(&rights, &user("eve", &["soc"]), "closed", "inside"), [200; 3]);
    }

    #[test]
    fn where_nothing_is_said_the_root_speaks_and_then_the_default() {
        let root = |path: &str, read, write| ApiRoot { access: Access { read, write }, ..ApiRoot::new(path) };
        let placed = |alias: &str, roots: &[&str], read, write| CollectionSpec {
            api_roots: list(roots).unwrap_or_default(),
            ..spec(alias, true, read, write)
        };
        let rights = rights(
            vec![
                root("open", None, None),
                root("partners", list(&["@partners"]), list(&["@senders"])),
                root("empty", list(&["ann"]), None),
                root("sealed", list(&[]), list(&[])),
            ],
            &[
                placed("plain", &[], None, None),
                placed("both", &["open", "partners"], None, None),
                placed("own", &["partners"], list(&["ann"]), list(&[])),
                placed("public", &["sealed"], list(&["*"]), None),
            ],
        );
        let (ann, partner, sender) = (user("ann", &[]), user("p", &["partners"]), user("s", &["senders"]));
        let (home, open, among) = (
            Identity::Anonymous(Nobody::AtHome),
            Identity::Anonymous(Nobody::Open),
            Identity::Anonymous(Nobody::AmongUsers),
        );
        let rows = [
            (&ann, "open", "plain", [200, 200, 200]),
            (&home, "open", "plain", [200, 200, 200]),
            (&open, "open", "plain", [200, 403, 403]),
            (&among, "open", "plain", [200, 401, 401]),
            (&ann, "open", "both", [200, 200, 200]),
            // Only in the root where it is.
            (&ann, "partners", "plain", [404, 404, 404]),
            (&partner, "partners", "both", [200, 403, 403]),
            (&sender, "partners", "both", [403, 200, 403]),
            (&home, "partners", "both", [404, 404, 404]),
            (&among, "partners", "both", [401, 401, 401]),
            // What a collection says goes before what the root says.
            (&ann, "partners", "own", [200, 403, 403]),
            (&partner, "partners", "own", [404, 404, 404]),
            (&open, "sealed", "public", [200, 403, 403]),
        ];
        for (identity, root, name, expected) in rows {
            assert_eq!(answers(&rights, identity, root, name), expected, "{identity:?} {root} {name}");
        }
        let known = |identity: &Identity| {
            let roots = ["open", "partners", "empty", "sealed", "nowhere"];
            roots.into_iter().filter(|root| rights.knows_root(identity, root)).collect::<Vec<_>>()
        };
        assert_eq!(known(&ann), ["open", "partners", "empty", "sealed"]);
        assert_eq!(known(&partner), ["open", "partners", "sealed"]);
        assert_eq!(known(&sender), ["open", "partners", "sealed"]);
        assert_eq!(known(&among), ["open", "sealed"]);
        let titles = |identity: &Identity, root: &str| {
            let listed: Vec<String> = rights.listed(identity, root).map(|(c, _)| c.title.clone()).collect();
            let mut configured: Vec<String> = rights.configured(identity, root).map(|(c, _)| c.title.clone()).collect();
            configured.sort();
            let mut sorted = listed.clone();
            sorted.sort();
            assert_eq!(sorted, configured);
            configured
        };
        assert_eq!(titles(&ann, "partners"), ["own"]);
        assert_eq!(titles(&partner, "partners"), ["both"]);
        assert_eq!(titles(&open, "partners"), Vec::<String>::new());
        assert_eq!(titles(&open, "nowhere"), Vec::<String>::new());
    }
}
