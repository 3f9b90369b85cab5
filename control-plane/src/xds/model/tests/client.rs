//! A client that keeps to the protocol, of whatever kind, and what it must have been told.

use proptest::prelude::*;
use weir_policy::names::ClusterName;
use weir_xds::encode::envoy::OUTBOUND;

use super::*;

/// Everything of a type.
pub(super) const STAR: &str = "*";

/// What there is at a moment, computed from the beginning.
pub(super) struct Anew {
    index: Index,
    versions: HashMap<Wanted, Option<Version>>,
    tables: HashMap<Scope, BTreeSet<String>>,
}

impl Anew {
    pub(super) fn of(world: &World) -> Anew {
        let mut index = Index::default();
        for (key, stored) in &world.held {
            index.apply(key, Some(Arc::clone(&stored.object)));
        }
        if let Some(roots) = world.model.index.roots() {
            index.set_roots(roots.to_owned());
        }
        Anew {
            index,
            versions: HashMap::new(),
            tables: HashMap::new(),
        }
    }

    pub(super) fn version(&mut self, of: ResourceType, name: &str, client: &ClientIdentity) -> Option<Version> {
        let wanted = Wanted::read(of, name, client)?;
        let index = &self.index;
        let version = self.versions.entry(wanted).or_insert_with_key(|wanted| {
            let computed = wanted::computed(wanted, index);
            computed.message.map(|(_, version)| version)
        });
        *version
    }

    /// What is not said in a message: what it is made from, and what of that its clients can't be told.
    pub(super) fn unsaid(&self, wanted: &Wanted) -> (BTreeSet<Key>, Vec<(Key, String)>) {
        unsaid(&wanted::computed(wanted, &self.index))
    }

    /// The clusters that the routes of an Envoy name.
    pub(super) fn clusters(&mut self, scope: Scope) -> &BTreeSet<String> {
        let index = &self.index;
        self.tables.entry(scope).or_insert_with_key(|scope| {
            let table = Table::new(scope.clone(), index);
            table.clusters().into_iter().map(ToString::to_string).collect()
        })
    }
}

/// A client that keeps to the protocol.
pub(super) struct Client {
    pub(super) id: StreamId,
    pub(super) identity: ClientIdentity,
    pub(super) variant: Variant,
    pub(super) asked: BTreeMap<ResourceType, BTreeSet<String>>,
    /// What it was last told, of what it still asks for.
    pub(super) told: BTreeMap<(ResourceType, String), Option<Version>>,
    newest: BTreeMap<ResourceType, Nonce>,
}

impl Client {
    pub(super) fn open(id: u64, identity: ClientIdentity, variant: Variant, world: &mut World) -> Client {
        world.open_as(id, identity.clone(), variant);
        Client {
            id: StreamId(id),
            identity,
            variant,
            asked: BTreeMap::new(),
            told: BTreeMap::new(),
            newest: BTreeMap::new(),
        }
    }

    pub(super) fn is_envoy(&self) -> bool {
        matches!(self.identity.dialect, Dialect::Envoy(_))
    }

    pub(super) fn asks(&self, of: ResourceType, name: &str) -> bool {
        let names = self.asked.get(&of);
        names.is_some_and(|names| names.contains(name) || names.contains(STAR))
    }

    /// Changes what it asks for; returns what it is answered.
    pub(super) fn ask(&mut self, of: ResourceType, more: &[&str], less: &[&str], world: &mut World) -> Vec<Told> {
        let names = self.asked.entry(of).or_default();
        names.retain(|name| !less.contains(&name.as_str()));
        names.extend(more.iter().map(|name| (*name).to_owned()));
        let asked = match self.variant {
            Variant::Delta => delta(more, less),
            Variant::StateOfTheWorld => Asked {
                names: Names::All(names.iter().cloned().collect()),
                response_nonce: self.newest.get(&of).map(Nonce::to_string).unwrap_or_default(),
                error: None,
            },
        };
        let asks = |name: &String| names.contains(name) || names.contains(STAR);
        self.told.retain(|(told_of, name), _| *told_of != of || asks(name));
        world.model.ask(self.id, of, asked, world.now).expect("few names")
    }

    pub(super) fn judge(&mut self, of: ResourceType, error: Option<&str>, world: &mut World) -> Vec<Told> {
        let Some(nonce) = self.newest.get(&of) else {
            return Vec::new();
        };
        let names = match self.variant {
            Variant::Delta => Names::default(),
            Variant::StateOfTheWorld => Names::All(self.asked.get(&of).into_iter().flatten().cloned().collect()),
        };
        let asked = Asked {
            names,
            response_nonce: nonce.to_string(),
            error: error.map(str::to_owned),
        };
        world.model.ask(self.id, of, asked, world.now).expect("few names")
    }

    /// Notes an answer.
    pub(super) fn hear(&mut self, answer: &Told) {
        self.newest.insert(answer.of, answer.nonce);
        if says_all(self.variant, answer.of) {
            self.told.retain(|(of, _), _| *of != answer.of);
        }
        for item in &answer.items {
            self.told.insert((answer.of, item.name.clone()), version_in(item));
        }
    }

    pub(super) fn has(&self, of: ResourceType, name: &str) -> bool {
        self.told.get(&(of, name.to_owned())).is_some_and(Option::is_some)
    }

    /// What Envoy does by itself: it asks for the routes that its listener names, and for its clusters' endpoints.
    pub(super) fn follow(&mut self, world: &mut World) -> Vec<Told> {
        let mut told = Vec::new();
        if !self.is_envoy() {
            return told;
        }
        let clusters = self.told.iter().filter(|(_, version)| version.is_some());
        let clusters = clusters.map(|((of, name), _)| (*of, name));
        let clusters =
            clusters.filter(|(of, name)| *of == ResourceType::Cluster && name.parse::<ClusterName>().is_ok());
        let clusters = clusters.map(|(_, name)| name.clone()).collect();
        let routes = match self.has(ResourceType::Listener, OUTBOUND) {
            true => BTreeSet::from([OUTBOUND.to_owned()]),
            false => BTreeSet::new(),
        };
        for (of, wants) in [(ResourceType::Endpoints, clusters), (ResourceType::Route, routes)] {
            let asked = self.asked.get(&of).cloned().unwrap_or_default();
            let more: Vec<&str> = wants.difference(&asked).map(String::as_str).collect();
            let less: Vec<&str> = asked.difference(&wants).map(String::as_str).collect();
            if !more.is_empty() || !less.is_empty() {
                told.extend(self.ask(of, &more, &less, world));
            }
        }
        told
    }

    /// What it must have been told.
    pub(super) fn expected(&self, anew: &mut Anew) -> BTreeMap<(ResourceType, String), Option<Version>> {
        let mut expected = BTreeMap::new();
        for (of, name) in self.subscribed(anew) {
            let version = anew.version(of, &name, &self.identity);
            expected.insert((of, name), version);
        }
        expected
    }

    /// Each resource that it asks for, by its name or with everything.
    pub(super) fn subscribed(&self, anew: &mut Anew) -> BTreeSet<(ResourceType, String)> {
        let mut subscribed = BTreeSet::new();
        for (of, names) in &self.asked {
            let named = names.iter().filter(|name| !self.is_envoy() || *name != STAR);
            subscribed.extend(named.map(|name| (*of, name.clone())));
            let Dialect::Envoy(node) = &self.identity.dialect else {
                continue;
            };
            if names.contains(STAR) {
                let settled = Settled::of(node, *of).into_iter().map(|settled| (*of, settled.name()));
                subscribed.extend(settled);
                if *of == ResourceType::Cluster {
                    let scope = Scope::of(node, &self.identity.workload.namespace);
                    subscribed.extend(anew.clusters(scope).iter().map(|name| (*of, name.clone())));
                }
            }
        }
        subscribed
    }

    /// It has what there is, and all that it named was answered.
    pub(super) fn check(&self, anew: &mut Anew) -> Result<(), TestCaseError> {
        let expected = self.expected(anew);
        for ((of, name), version) in &expected {
            let told = self.told.get(&(*of, name.clone()));
            let named = self.asked[of].contains(name);
            match (version, self.variant) {
                (Some(_), _) => prop_assert_eq!(told, Some(version), "{} {} {}", self.identity.workload, of, name),
                // Of listeners and clusters it may have been said by leaving them out, of the others there is no word.
                (None, Variant::StateOfTheWorld) => {
                    prop_assert!(!says_all(self.variant, *of) || !self.has(*of, name), "{} {}", of, name);
                }
                (None, Variant::Delta) => {
                    prop_assert!(!self.has(*of, name), "{} {}", of, name);
                    prop_assert!(!named || told.is_some(), "{} {} is not answered", of, name);
                }
            }
        }
        for ((of, name), version) in &self.told {
            let there = version.is_none() || expected.contains_key(&(*of, name.clone()));
            prop_assert!(there, "{} keeps {} {}", self.identity.workload, of, name);
        }
        Ok(())
    }

    /// What there is no word for in the state of the world: that routes or endpoints are gone.
    pub(super) fn finds_out(&mut self, anew: &mut Anew) {
        for ((of, name), version) in self.expected(anew) {
            if version.is_none() && self.variant == Variant::StateOfTheWorld && !says_all(self.variant, of) {
                self.told.insert((of, name), None);
            }
        }
    }

    /// Of what was pushed each part was news, or the endpoints of a cluster that was.
    pub(super) fn needs(&self, pushed: &[Told]) -> Result<(), TestCaseError> {
        let mut warming = BTreeSet::new();
        let mut told = self.told.clone();
        for answer in pushed {
            let of = answer.of;
            let is_news = |item: &&Item| told.get(&(of, item.name.clone())) != Some(&version_in(item));
            let news = answer.items.iter().filter(is_news).map(|item| item.name.clone());
            let news: BTreeSet<String> = news.collect();
            let needed = if says_all(self.variant, of) {
                let before = told.keys().filter(|(told_of, _)| *told_of == of).count();
                told.retain(|(told_of, _), _| *told_of != of);
                !news.is_empty() || before > answer.items.len()
            } else {
                let warms = |name| of == ResourceType::Endpoints && warming.contains(name);
                let mut names = answer.items.iter().map(|item| &item.name);
                names.all(|name| news.contains(name) || warms(name))
            };
            prop_assert!(needed, "{}: {:?}", self.identity.workload, answer);
            for item in &answer.items {
                let is_warmed = self.is_envoy() && self.asks(ResourceType::Endpoints, &item.name);
                if of == ResourceType::Cluster && is_warmed && item.resource.is_some() && news.contains(&item.name) {
                    warming.insert(item.name.clone());
                }
                if of == ResourceType::Endpoints {
                    warming.remove(&item.name);
                }
                told.insert((of, item.name.clone()), version_in(item));
            }
        }
        prop_assert!(warming.is_empty(), "Envoy waits for the endpoints of {:?}", warming);
        Ok(())
    }
}

pub(super) fn unsaid(computed: &Computed) -> (BTreeSet<Key>, Vec<(Key, String)>) {
    let sources = computed.sources.iter().map(|(key, _)| key.clone());
    (sources.collect(), computed.not_sent.clone())
}

fn version_in(item: &Item) -> Option<Version> {
    item.resource.as_ref().map(|(_, version)| *version)
}
