//! Objects that may stand otherwise than before, until somebody looks: a proxy confirmed or rejected something, came,
//! went, or was told something new. Kept by resource, so that of a thousand ACKs for one each costs a look-up.

use std::collections::{BTreeSet, HashSet};

use weir_api::Key;

use super::model::Resource;
use crate::compile::wanted::Wanted;
use crate::status;

/// What was stirred since it was last taken. Only objects whose status says where they are in force.
#[derive(Debug, Default)]
pub(super) struct Stirred {
    resources: HashSet<Wanted>,
    objects: BTreeSet<Key>,
}

impl Stirred {
    /// Something happened to a resource: whatever it concerns when this is taken.
    pub(super) fn resource(&mut self, wanted: &Wanted, resource: &Resource) {
        if !self.resources.contains(wanted) && resource.concerned().any(|key| status::says_in_force(key.kind)) {
            self.resources.insert(wanted.clone());
        }
    }

    /// What a resource concerns now, before that changes.
    pub(super) fn objects(&mut self, resource: &Resource) {
        let concerned = resource.concerned().filter(|key| status::says_in_force(key.kind));
        for key in concerned {
            if !self.objects.contains(key) {
                self.objects.insert(key.clone());
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.objects.is_empty()
    }

    /// All of it, and nothing is left.
    pub(super) fn take<'a>(&mut self, held: impl Fn(&Wanted) -> Option<&'a Resource>) -> BTreeSet<Key> {
        for wanted in std::mem::take(&mut self.resources) {
            if let Some(resource) = held(&wanted) {
                self.objects(resource);
            }
        }
        std::mem::take(&mut self.objects)
    }
}
