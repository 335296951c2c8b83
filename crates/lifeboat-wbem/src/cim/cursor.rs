//! A lazy walk over instances: one VM's at a time, so that what a client has not pulled yet costs nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use lifeboat_cim::{CimError, Instance, Namespace};

use super::classes::{self, ClassView};
use super::facts::Walk;
use super::located::{Found, MOST_IDS, entries, ids_in, legs, needs};
use super::relations::{Related, Want};
use super::{ObjectManager, Relations};

/// Whether an instance is wanted.
pub(super) type Filter = Box<dyn Fn(&Instance) -> bool + Send + Sync>;

/// What is left of an enumeration.
pub struct Cursor {
    manager: Arc<ObjectManager>,
    walk: Walk,
    wish: Wish,
    ready: VecDeque<Found>,
}

enum Wish {
    Instances {
        namespace: &'static Namespace,
        classes: Vec<&'static ClassView>,
        filter: Option<Filter>,
    },
    Related(Box<Related>),
}

impl Cursor {
    /// All instances of a class that a filter lets through.
    pub(super) fn all(
        manager: &Arc<ObjectManager>,
        namespace: &'static Namespace,
        class: &str,
        filter: Option<Filter>,
    ) -> Result<Self, CimError> {
        let classes = entries(namespace, class)?;
        let walk = Walk::everywhere(manager, needs(&classes));
        Ok(Self::new(
            manager,
            walk,
            Wish::Instances {
                namespace,
                classes,
                filter,
            },
        ))
    }

    /// These of a namespace, which are known already.
    pub(crate) fn over(
        manager: &Arc<ObjectManager>,
        namespace: &'static Namespace,
        instances: Vec<Instance>,
    ) -> Self {
        let (classes, filter) = (Vec::new(), None);
        let walk = Walk::everywhere(manager, needs(&classes));
        let mut cursor = Self::new(
            manager,
            walk,
            Wish::Instances {
                namespace,
                classes,
                filter,
            },
        );
        let found = instances
            .into_iter()
            .map(|instance| Found { namespace, instance });
        cursor.ready = found.collect();
        cursor
    }

    /// All instances of a class that a filter lets through, which has these keys.
    pub(super) fn some(
        manager: &Arc<ObjectManager>,
        namespace: &'static Namespace,
        class: &str,
        known: &[&str],
        filter: Filter,
    ) -> Result<Self, CimError> {
        let classes = entries(namespace, class)?;
        let needs = needs(&classes);
        let ids = known
            .iter()
            .flat_map(|text| ids_in(text))
            .take(MOST_IDS)
            .collect();
        let walk = Walk::new(manager, needs, legs(needs, ids, true));
        let filter = Some(filter);
        Ok(Self::new(
            manager,
            walk,
            Wish::Instances {
                namespace,
                classes,
                filter,
            },
        ))
    }

    /// What is related to an instance.
    pub(super) async fn related(
        manager: &Arc<ObjectManager>,
        namespace: &'static Namespace,
        relations: Relations,
        want: Want,
    ) -> Result<Self, CimError> {
        let source = manager.locate(namespace, &relations.source).await?;
        let (related, walk) = Related::new(manager, namespace, relations, want, source)?;
        Ok(Self::new(manager, walk, Wish::Related(Box::new(related))))
    }

    fn new(manager: &Arc<ObjectManager>, walk: Walk, wish: Wish) -> Self {
        Self {
            manager: manager.clone(),
            walk,
            wish,
            ready: VecDeque::new(),
        }
    }

    /// The next instance; `None` at the end. A walk over all VMs asks for a hundred at a time, by name: it shows them as they
    /// were then, with recovery points as they are when it comes to them, and no VM that stays is shown twice or left out; one about a single thing leaves it out when it has gone.
    ///
    /// # Errors
    /// The engine could not be asked, for example because it is stopping.
    pub async fn next(&mut self) -> Result<Option<Found>, CimError> {
        loop {
            if let Some(found) = self.ready.pop_front() {
                return Ok(Some(found));
            }
            let Some(mut parts) = self.walk.next(&self.manager).await? else {
                return Ok(None);
            };
            let batch = match &self.wish {
                Wish::Instances {
                    namespace,
                    classes,
                    filter,
                } => {
                    let mut batch = classes::make(classes, &self.manager.host, &parts);
                    batch.retain(|i| filter.as_ref().is_none_or(|wanted| wanted(i)));
                    let found = |instance| Found { namespace, instance };
                    batch.into_iter().map(found).collect::<Vec<_>>()
                }
                Wish::Related(related) => related.batch(&self.manager, &self.walk, &mut parts).await?,
            };
            self.walk.found |= !batch.is_empty();
            self.ready.extend(batch);
        }
    }
}
