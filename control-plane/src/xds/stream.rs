//! What one ADS stream has asked for, been told and confirmed. Pure: it decides what must be said, the caller says it.
//!
//! Rules are of the xDS protocol's page ("xDS REST and gRPC protocol", Envoy's documentation), sections "How the client
//! specifies what resources to return", "Grouping Resources into Responses", "ACK/NACK and resource type instance
//! version", "Incremental xDS" and "Unsubscribing From Resources"; each is named where it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use weir_xds::ResourceType;

use crate::compile::Version;
use crate::store::Revision;

/// The most resources one stream may subscribe to by name: far above what an app uses, and it bounds a stream's memory.
pub(crate) const SUBSCRIPTIONS_MAX: usize = 10_000;

/// The number of an answer on its stream; the first is 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Nonce(u64);

impl std::fmt::Display for Nonce {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of the protocol's variants a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Incremental: what changed.
    Delta,
    /// All that is subscribed to of listeners and clusters, whatever changed; of the other types what changed.
    StateOfTheWorld,
}

/// Whether a client may ask for everything of a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wildcards {
    /// Of listeners and clusters it may.
    Served,
    /// It asks by name; `*` is a name like any other.
    No,
}

/// What is said of a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// It exists, in this version.
    Version(Version),
    /// It does not exist.
    Absent,
}

/// One request of a client, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// What it subscribes to.
    pub(crate) names: Names,
    /// The answer that this request confirms or rejects; empty: none.
    pub(crate) response_nonce: String,
    /// Why the client rejects that answer; `None`: it confirms it.
    pub(crate) error: Option<String>,
}

/// The names in a request.
#[derive(Debug)]
pub(crate) enum Names {
    /// What changes in them.
    Delta {
        /// Names to add.
        subscribe: Vec<String>,
        /// Names to let go.
        unsubscribe: Vec<String>,
        /// What the client says it has from an earlier stream, name by version.
        initial_versions: BTreeMap<String, String>,
    },
    /// All of them.
    All(Vec<String>),
}

impl Default for Names {
    fn default() -> Self {
        Names::Delta {
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            initial_versions: BTreeMap::new(),
        }
    }
}

/// What a request asks of the server.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Effect {
    /// Names that the client subscribed to in this request; [`Subscriptions::tell`] knows which of them need an answer.
    pub(crate) wanted: Vec<String>,
    /// Names it let go of.
    pub(crate) let_go: Vec<String>,
    /// Those of them that it let go of while it asks for everything: whether they are part of that it can't know.
    pub(crate) unsure: Vec<String>,
    /// Whether it asks for everything of the type.
    pub(crate) everything: Everything,
    /// The resources that it confirmed or rejected.
    pub(crate) judged: Vec<String>,
}

/// What a request changes in the client's subscription to everything of a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Everything {
    /// Nothing.
    #[default]
    AsBefore,
    /// It begins; or it is repeated, and to be answered.
    Asked,
    /// It ends.
    LetGo,
}

/// Why a request ends its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// See [`SUBSCRIPTIONS_MAX`].
    #[error("a stream may subscribe to at most {SUBSCRIPTIONS_MAX} resources")]
    TooMany,
}

/// When something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// On the clock.
    pub(crate) time: Instant,
    /// In the store's history.
    pub(crate) revision: Revision,
}

/// An answer that must be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its number.
    pub(crate) nonce: Nonce,
    /// What it must say something of. In the state of the world an answer on listeners or clusters says all that exist
    /// beside these.
    pub(crate) names: BTreeSet<String>,
    /// Those of them that are not only said again because they were not confirmed yet.
    pub(crate) news: BTreeSet<String>,
}

/// One subscribed resource as the client has it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Subscription {
    said: Option<Said>,
    /// What the client last confirmed.
    in_force: Option<Held>,
    /// Why the client rejected what was said last.
    rejected: Option<String>,
    /// It was asked for and not answered yet.
    owed: Owed,
    /// Since when what is in force is not what was said last.
    behind: Option<Moment>,
    /// The client named it.
    named: bool,
    /// It is part of the everything that the client asked for.
    covered: bool,
}

/// The newest that was said.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Said {
    held: Held,
    /// By which answer; `None`: the client had it when the stream began, or it needs no saying.
    by: Option<Nonce>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Owed {
    #[default]
    Nothing,
    Answer,
}

/// Where the client stands with a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It confirmed what was said last.
    InForce,
    /// It has not answered yet, or was not told yet.
    Pending,
    /// It rejected what was said last, for this reason.
    Rejected(String),
}

impl Standing {
    /// Of two resources that concern one object the worse tells; of two rejections the first.
    pub(crate) fn worsen(&mut self, other: Standing) {
        match (&*self, &other) {
            (Standing::Rejected(_), _) | (_, Standing::InForce) | (Standing::Pending, Standing::Pending) => {}
            (Standing::InForce | Standing::Pending, Standing::Rejected(_) | Standing::Pending) => *self = other,
        }
    }
}

impl Subscription {
    /// Where the client stands.
    pub(crate) fn standing(&self) -> Standing {
        if let Some(reason) = &self.rejected {
            return Standing::Rejected(reason.clone());
        }
        match (self.said, self.in_force) {
            (Some(said), Some(in_force)) if said.held == in_force => Standing::InForce,
            _ => Standing::Pending,
        }
    }

    /// Whether the client was last told that it exists.
    pub(crate) fn is_there(&self) -> bool {
        self.said.is_some_and(|said| said.held != Held::Absent)
    }

    /// Since when the client is behind what was said; `None`: it is not, or was told nothing yet.
    pub(crate) fn behind(&self) -> Option<Moment> {
        self.behind
    }

    /// Whether the client asks for it, one way or the other; else it is only kept until its end is confirmed.
    pub(crate) fn is_wanted(&self) -> bool {
        self.named || self.covered
    }

    fn say(&mut self, held: Held, by: Option<Nonce>, at: Moment) {
        self.said = Some(Said { held, by });
        self.owed = Owed::Nothing;
        self.rejected = None;
        self.behind = match self.in_force {
            Some(in_force) if in_force == held => None,
            _ => Some(self.behind.unwrap_or(at)),
        };
    }

    fn confirm(&mut self) {
        self.in_force = self.said.map(|said| said.held);
        self.behind = None;
        self.rejected = None;
    }
}

/// Everything a stream subscribes to.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    variant: Variant,
    wildcards: Wildcards,
    types: BTreeMap<ResourceType, TypeState>,
    /// What can still be confirmed, by answer: of each resource the newest, so never more than there are subscriptions,
    /// and the newest answer of each type.
    open: BTreeMap<Nonce, (ResourceType, BTreeSet<String>)>,
    last_nonce: u64,
    /// Resources that the client named.
    named: usize,
}

#[derive(Debug, Default)]
struct TypeState {
    resources: BTreeMap<String, Subscription>,
    everything: Asks,
    /// Everything was asked for, and that was not answered yet.
    owed: Owed,
    /// The newest answer.
    newest: Option<Nonce>,
}

/// Whether a client asks for everything of a type, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asks {
    #[default]
    No,
    /// By never having named anything.
    ByNamingNothing,
    /// By `*`.
    ByName,
}

impl Subscriptions {
    /// Those of a stream that begins.
    pub(crate) fn new(variant: Variant, wildcards: Wildcards) -> Subscriptions {
        Subscriptions {
            variant,
            wildcards,
            types: BTreeMap::new(),
            open: BTreeMap::new(),
            last_nonce: 0,
            named: 0,
        }
    }

    /// Which variant the stream is.
    pub(crate) fn variant(&self) -> Variant {
        self.variant
    }

    /// Takes in one request for resources of one type.
    ///
    /// # Errors
    /// When the stream has to end.
    pub(crate) fn ask(&mut self, of: ResourceType, asked: Asked) -> Result<Effect, Refusal> {
        let judged = self.verdict(of, &asked);
        let effect = match asked.names {
            Names::Delta {
                subscribe,
                unsubscribe,
                initial_versions,
            } => self.ask_delta(of, subscribe, unsubscribe, &initial_versions)?,
            Names::All(names) => {
                // "ACK and NACK … stale": the answer to the newest one brings all names again.
                let newest = self.types.get(&of).and_then(|state| state.newest);
                let stale = !asked.response_nonce.is_empty()
                    && newest.is_some_and(|newest| newest.to_string() != asked.response_nonce);
                if stale {
                    Effect::default()
                } else {
                    self.ask_all(of, names)?
                }
            }
        };
        Ok(Effect { judged, ..effect })
    }

    fn ask_delta(
        &mut self,
        of: ResourceType,
        mut subscribe: Vec<String>,
        mut unsubscribe: Vec<String>,
        initial_versions: &BTreeMap<String, String>,
    ) -> Result<Effect, Refusal> {
        // "Incremental xDS": initial_resource_versions is populated in the first request of each type on a stream only.
        let first = !self.types.contains_key(&of);
        let mut effect = Effect::default();
        let serves_all = self.serves_everything(of);
        let state = self.types.entry(of).or_default();
        if serves_all {
            let asks = take_star(&mut subscribe);
            let lets_go = take_star(&mut unsubscribe);
            // "Wildcard": a first request that names nothing asks for everything.
            let implied = first && !asks && subscribe.is_empty();
            if asks || implied {
                state.everything = if asks { Asks::ByName } else { Asks::ByNamingNothing };
                state.owed = Owed::Answer;
                effect.everything = Everything::Asked;
            } else if lets_go && state.everything != Asks::No {
                state.everything = Asks::No;
                effect.everything = Everything::LetGo;
            }
        }
        for name in unsubscribe {
            self.let_go(of, name, &mut effect);
        }
        for name in &subscribe {
            let had = initial_versions.get(name).filter(|_| first);
            let had = had.and_then(|version| version.parse().ok()).map(Held::Version);
            self.subscribe(of, name, had)?;
        }
        effect.wanted = subscribe;
        Ok(effect)
    }

    fn ask_all(&mut self, of: ResourceType, mut names: Vec<String>) -> Result<Effect, Refusal> {
        let mut effect = Effect::default();
        let first = !self.types.contains_key(&of);
        let serves_all = self.serves_everything(of);
        let state = self.types.entry(of).or_default();
        if serves_all {
            let by_name = take_star(&mut names);
            // "Wildcard": as long as a client never named anything, an empty list asks for everything; once it did, an
            // empty list is the end of all subscriptions.
            let implied = names.is_empty() && (first || state.everything == Asks::ByNamingNothing);
            let asks = match (by_name, implied) {
                (true, _) => Asks::ByName,
                (false, true) => Asks::ByNamingNothing,
                (false, false) => Asks::No,
            };
            effect.everything = match (state.everything, asks) {
                (Asks::No, Asks::ByName | Asks::ByNamingNothing) => {
                    state.owed = Owed::Answer;
                    Everything::Asked
                }
                (Asks::ByName | Asks::ByNamingNothing, Asks::No) => Everything::LetGo,
                (Asks::No, Asks::No) | (Asks::ByName | Asks::ByNamingNothing, Asks::ByName | Asks::ByNamingNothing) => {
                    Everything::AsBefore
                }
            };
            state.everything = asks;
        }
        let listed: BTreeSet<String> = names.into_iter().collect();
        let held = state.resources.iter().filter(|(_, held)| held.named);
        let gone: Vec<String> = held
            .map(|(name, _)| name)
            .filter(|name| !listed.contains(*name))
            .cloned()
            .collect();
        for name in gone {
            self.let_go(of, name, &mut effect);
        }
        for name in listed {
            let known = self.subscription(of, &name).is_some_and(|held| held.named);
            if !known {
                self.subscribe(of, &name, None)?;
                effect.wanted.push(name);
            }
        }
        Ok(effect)
    }

    /// Sets what everything of a type is for this client; returns what is new in it, and what is no longer in it and
    /// was not asked for by name: it has to be told that those are gone.
    pub(crate) fn cover(&mut self, of: ResourceType, names: &BTreeSet<String>) -> Covered {
        let state = self.types.entry(of).or_default();
        let mut covered = Covered::default();
        for name in names {
            let subscription = state.resources.entry(name.clone()).or_default();
            if !subscription.covered {
                subscription.covered = true;
                covered.added.insert(name.clone());
            }
        }
        for (name, subscription) in &mut state.resources {
            if subscription.covered && !names.contains(name) {
                subscription.covered = false;
                if !subscription.named {
                    covered.left.insert(name.clone());
                }
            }
        }
        // Of what was never told, or told to be gone, nothing need be taken back.
        let unwanted = state
            .resources
            .iter()
            .filter(|(_, held)| !held.is_wanted() && !held.is_there());
        let unwanted: Vec<String> = unwanted.map(|(name, _)| name.clone()).collect();
        for name in unwanted {
            self.forget(of, &name);
        }
        covered
    }

    /// Whether the client asks for everything of this type.
    #[cfg(test)]
    fn asks_everything(&self, of: ResourceType) -> bool {
        self.types.get(&of).is_some_and(|state| state.everything != Asks::No)
    }

    /// Marks a resource as to be answered again, if the client asks for it.
    pub(crate) fn owe(&mut self, of: ResourceType, name: &str) -> bool {
        let subscription = self.types.get_mut(&of).and_then(|state| state.resources.get_mut(name));
        match subscription {
            Some(subscription) => {
                subscription.owed = Owed::Answer;
                true
            }
            None => false,
        }
    }

    /// Decides what of these resources, which are now so, the client must be told, and by which answer. A version that
    /// was rejected is not repeated unasked; one that was not confirmed yet does not hold back a newer one.
    pub(crate) fn tell(&mut self, of: ResourceType, now: &[(&str, Held)], at: Moment) -> Option<Answer> {
        let variant = self.variant;
        let state = self.types.get_mut(&of)?;
        let nonce = Nonce(self.last_nonce + 1);
        let mut names = BTreeSet::new();
        let mut replaced = Vec::new();
        for (name, held) in now {
            let Some(subscription) = state.resources.get_mut(*name) else {
                continue;
            };
            let known = subscription.said.is_some_and(|said| said.held == *held);
            if known && subscription.owed == Owed::Nothing {
                continue;
            }
            // Routes may name a cluster that does not exist: who asked for everything need not hear that there is none.
            if *held == Held::Absent && subscription.said.is_none() && !subscription.named {
                subscription.say(*held, None, at);
                subscription.confirm();
                continue;
            }
            replaced.extend(
                subscription
                    .said
                    .and_then(|said| said.by)
                    .map(|by| (by, (*name).to_owned())),
            );
            if can_say(variant, of, *held) {
                names.insert((*name).to_owned());
                subscription.say(*held, Some(nonce), at);
            } else {
                // "Deleting Resources": of these types there is no word for it; the client finds out by waiting.
                subscription.say(*held, None, at);
                subscription.confirm();
            }
        }
        let news = names.clone();
        let owed = std::mem::take(&mut state.owed);
        let needed = !names.is_empty() || owed == Owed::Answer;
        if needed {
            self.last_nonce = nonce.0;
            if says_all(variant, of) {
                // What was not confirmed yet is said again, and its verdict will be of this answer.
                for (name, subscription) in &mut state.resources {
                    if let Some(said) = &mut subscription.said
                        && subscription.in_force != Some(said.held)
                        && let Some(by) = said.by.replace(nonce)
                        && by != nonce
                    {
                        replaced.push((by, name.clone()));
                        names.insert(name.clone());
                    }
                }
            }
            if let Some(older) = state.newest.replace(nonce)
                && self.open.get(&older).is_some_and(|(_, names)| names.is_empty())
            {
                self.open.remove(&older);
            }
            self.open.insert(nonce, (of, names.clone()));
        }
        for (by, name) in replaced {
            if let Some((_, names)) = self.open.get_mut(&by) {
                names.remove(&name);
                if names.is_empty() && by != nonce {
                    self.open.remove(&by);
                }
            }
        }
        needed.then_some(Answer { nonce, names, news })
    }

    /// Every subscription, by type and name.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (ResourceType, &str, &Subscription)> {
        let types = self.types.iter();
        types.flat_map(|(of, state)| state.resources.iter().map(|(name, held)| (*of, name.as_str(), held)))
    }

    /// One subscription.
    pub(crate) fn subscription(&self, of: ResourceType, name: &str) -> Option<&Subscription> {
        self.types.get(&of)?.resources.get(name)
    }

    fn serves_everything(&self, of: ResourceType) -> bool {
        self.wildcards == Wildcards::Served && matches!(of, ResourceType::Listener | ResourceType::Cluster)
    }

    fn subscribe(&mut self, of: ResourceType, name: &str, had: Option<Held>) -> Result<(), Refusal> {
        let resources = &mut self.types.entry(of).or_default().resources;
        let fresh = !resources.contains_key(name);
        let subscription = resources.entry(name.to_owned()).or_default();
        if !subscription.named {
            if self.named >= SUBSCRIPTIONS_MAX {
                return Err(Refusal::TooMany);
            }
            self.named += 1;
            subscription.named = true;
        }
        match had.filter(|_| fresh) {
            // "Incremental xDS", reconnect: what the client has in the current version need not be sent again.
            Some(held) => {
                subscription.said = Some(Said { held, by: None });
                subscription.in_force = Some(held);
            }
            // DeltaDiscoveryRequest.resource_names_subscribe: the server must answer every name listed, even one it
            // believes the client to have: the client may have dropped it in between.
            None => subscription.owed = Owed::Answer,
        }
        Ok(())
    }

    /// "ACK and NACK": a request whose nonce names an answer confirms it, or rejects it when error_detail is set. One
    /// that names an answer whose resources newer ones have replaced says nothing about the newer ones.
    fn verdict(&mut self, of: ResourceType, asked: &Asked) -> Vec<String> {
        let Ok(nonce) = asked.response_nonce.parse().map(Nonce) else {
            return Vec::new();
        };
        // "Each resource type has its own nonces": an answer is confirmed by a request of its own type.
        if self.open.get(&nonce).is_none_or(|(said_of, _)| *said_of != of) {
            return Vec::new();
        }
        let names = self.open.remove(&nonce).map(|(_, names)| names).unwrap_or_default();
        let Some(state) = self.types.get_mut(&of) else {
            return Vec::new();
        };
        // Envoy and gRPC (gRFC A46) take from a rejected answer what is right, and name the rest.
        let blamed: BTreeSet<&String> = match &asked.error {
            None => BTreeSet::new(),
            Some(reason) => {
                let named: BTreeSet<&String> = names.iter().filter(|name| mentions(reason, name)).collect();
                if named.is_empty() {
                    names.iter().collect()
                } else {
                    named
                }
            }
        };
        for name in &names {
            let Some(subscription) = state.resources.get_mut(name) else {
                continue;
            };
            match &asked.error {
                Some(reason) if blamed.contains(name) => subscription.rejected = Some(reason.clone()),
                Some(_) | None => subscription.confirm(),
            }
            if !subscription.is_wanted() {
                state.resources.remove(name);
            }
        }
        names.into_iter().collect()
    }

    /// "Unsubscribing From Resources": names the client does not hold are ignored. Of one that it lets go of while it
    /// asks for everything it must be told: that it is there if it is part of everything, else that it is gone.
    fn let_go(&mut self, of: ResourceType, name: String, effect: &mut Effect) {
        let Some(state) = self.types.get_mut(&of) else {
            return;
        };
        let Some(subscription) = state.resources.get_mut(&name).filter(|held| held.named) else {
            return;
        };
        subscription.named = false;
        self.named -= 1;
        if state.everything != Asks::No {
            subscription.owed = Owed::Answer;
            effect.unsure.push(name.clone());
        } else if !subscription.covered {
            self.forget(of, &name);
        }
        effect.let_go.push(name);
    }

    /// Forgets a resource that the client does not ask for.
    pub(crate) fn forget(&mut self, of: ResourceType, name: &str) {
        let Some(state) = self.types.get_mut(&of) else {
            return;
        };
        let Some(subscription) = state.resources.remove(name) else {
            return;
        };
        if let Some(nonce) = subscription.said.and_then(|said| said.by)
            && let Some((_, names)) = self.open.get_mut(&nonce)
        {
            names.remove(name);
            if names.is_empty() {
                self.open.remove(&nonce);
            }
        }
    }

    /// The same, unless the client asks for it after all.
    pub(crate) fn forget_unwanted(&mut self, of: ResourceType, name: &str) {
        if self.subscription(of, name).is_some_and(|held| !held.is_wanted()) {
            self.forget(of, name);
        }
    }
}

/// How the extent of everything of a type changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Covered {
    /// New in it.
    pub(crate) added: BTreeSet<String>,
    /// No longer in it, and not named.
    pub(crate) left: BTreeSet<String>,
}

/// "Grouping Resources into Responses": of listeners and clusters a response of the state of the world holds all.
pub(crate) fn says_all(variant: Variant, of: ResourceType) -> bool {
    variant == Variant::StateOfTheWorld && matches!(of, ResourceType::Listener | ResourceType::Cluster)
}

fn can_say(variant: Variant, of: ResourceType, held: Held) -> bool {
    held != Held::Absent || variant == Variant::Delta || says_all(variant, of)
}

fn take_star(names: &mut Vec<String>) -> bool {
    let before = names.len();
    names.retain(|name| name != "*");
    names.len() != before
}

/// Whether a text names a resource as a whole word: `a.b:80` is not named by `a.b:8080` nor by `aa.b:80`.
fn mentions(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '/' | '*');
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let mut after = text[at + name.len()..].chars();
        let goes_on = match after.next() {
            // Behind a name they may as well end a sentence or begin a reason.
            Some('.') => after.next().is_some_and(is_part),
            Some(':') => after.next().is_some_and(|c| c.is_ascii_digit()),
            Some(c) => is_part(c),
            None => false,
        };
        !name.is_empty() && !before.is_some_and(|c| is_part(c) || c == '.') && !goes_on
    })
}

#[cfg(test)]
mod tests;
