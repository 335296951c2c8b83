//! A lazy walk over instances, one VM's at a time, so that instances that a client has not pulled yet cost nothing. Which
//! instances a class has is not known here.

use std::collections::VecDeque;
use std::sync::Arc;

use lifeboat_cim::{CimError, Instance, Namespace};

use super::classes::{self, ClassView};
use super::facts::Walk;
use super::located::{Found, MOST_IDS, entries, ids_in, legs, needs};
use super::relations::{Related, Want};
use super::{ObjectManager, Relations};

/// Says of an instance whether the walk returns it.
pub(super) type Filter = Box<dyn Fn(&Instance) -> bool + Send + Sync>;

/// What is left of an enumeration.
pub struct Cursor {
    manager: Arc<ObjectManager>,
    walk: Walk,
    selection: Selection,
    ready: VecDeque<Found>,
}

enum Selection {
    Instances {
        namespace: &'static Namespace,
        classes: Vec<&'static ClassView>,
        filter: Option<Filter>,
    },
    Related(Box<Related>),
}

impl Cursor {
    /// All instances of a class for which the filter is true.
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
            Selection::Instances {
                namespace,
                classes,
                filter,
            },
        ))
    }

    /// A walk over instances of a namespace that are made already.
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
            Selection::Instances {
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

    /// All instances of a class for which the filter is true, where it can be true only for instances with these keys.
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
            Selection::Instances {
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
        Ok(Self::new(manager, walk, Selection::Related(Box::new(related))))
    }

    fn new(manager: &Arc<ObjectManager>, walk: Walk, selection: Selection) -> Self {
        Self {
            manager: manager.clone(),
            walk,
            selection,
            ready: VecDeque::new(),
        }
    }

    /// The next instance; `None` at the end. A walk over all VMs reads a hundred at a time, by name, and shows them as they
    /// were then, but each with its recovery points of the moment it is reached. It shows every VM that exists throughout
    /// exactly once. A walk to a single VM or job ends without an instance when that is gone.
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
            let batch = match &self.selection {
                Selection::Instances {
                    namespace,
                    classes,
                    filter,
                } => {
                    let mut batch = classes::make(classes, &self.manager.host, &parts);
                    batch.retain(|i| filter.as_ref().is_none_or(|wanted| wanted(i)));
                    let found = |instance| Found { namespace, instance };
                    batch.into_iter().map(found).collect::<Vec<_>>()
                }
                Selection::Related(related) => related.batch(&self.manager, &self.walk, &mut parts).await?,
            };
            self.walk.found |= !batch.is_empty();
            self.ready.extend(batch);
        }
    }
}
