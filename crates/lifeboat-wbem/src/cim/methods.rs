//! Methods: a call that was understood becomes an action of the engine, and its answer a return value. One table says
//! which method of which class may be called by whom and is carried out by what, and which are not served and why.
//!
//! A refusal is a normal answer with a return value. The API has no place for the text of a refusal: it is logged. A call that
//! waits for a second person is answered with an error instead, whose text says how it is confirmed. The other errors are
//! for calls that cannot be carried out at all: no such class, method or instance, or parameters that cannot be read.

mod arguments;
mod failover;
mod job;
mod management;
mod replication;
mod server;
mod statistics;
mod system;
mod table;

use super::classes::{job_path, vm_path};
use super::embedded::{invalid, shown};
use super::located::vm_named;
use super::roles::{About, needed};
use super::{Caller, ObjectManager, Outcome, Role};
use crate::cim::embedded::advised;
use crate::cim::hint;
use arguments::Arguments;
use futures_util::future::BoxFuture;
use lifeboat_cim::{CimError, Class, InstanceName, Method, Namespace, ObjectPath, Raw, Status, Value};
use lifeboat_engine::action::{Action, Answer, Refusal, VmRef, VmView};
use lifeboat_engine::paging::Page;
use lifeboat_engine::query::Query;
use lifeboat_model::api::ReturnCode;
use lifeboat_model::{RelationshipId, ReplicationMode, VmId};
use std::sync::Arc;
pub use table::{Entry, METHODS, NOT_SERVED, NotServed, Numbers};
use tracing::{Instrument, info, warn};

/// The answer of a method: an outcome, or a refusal, which becomes a return value.
type Answered = Result<Outcome, Refusal>;

/// Carries out a call.
type Handler = for<'a> fn(&'a Call<'a>) -> BoxFuture<'a, Answered>;

/// The instance whose method is called.
struct Target {
    /// All its keys, and its own class.
    name: InstanceName,
    /// The VM it was made of, as it was seen when the instance was looked for.
    view: Option<Arc<VmView>>,
}

/// A call of a method that exists, with parameters of the right types. Its instance exists, or is a VM that the engine will be
/// asked about.
struct Call<'a> {
    manager: &'a ObjectManager,
    namespace: &'a Namespace,
    caller: &'a Caller,
    target: Target,
    arguments: Arguments,
}

impl Outcome {
    fn done() -> Self {
        Self {
            value: 0,
            out: Vec::new(),
        }
    }

    /// Whether the method was carried out, or its job begun.
    fn is_granted(&self) -> bool {
        [ReturnCode::Completed, ReturnCode::JobStarted]
            .map(ReturnCode::number)
            .contains(&self.value)
    }

    fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.out.push((name.to_owned(), value.into()));
        self
    }
}

impl Call<'_> {
    /// Carries out an action, if this caller's role allows it. Every action of a method goes through here, every question through
    /// `query` or `whole`.
    async fn perform(&self, action: Action) -> Result<Answer, Refusal> {
        self.may(&action).await?;
        self.manager.management.perform(self.caller.by(), action).await
    }

    /// Asks a question, if this caller's role allows it.
    async fn query<T>(&self, query: Query<T>) -> Result<T, Refusal> {
        self.may(query.action()).await?;
        self.manager.management.query(self.caller.by(), query).await
    }

    /// Reads all pages of a list, if this caller's role allows it.
    async fn whole<T>(&self, query: Query<Page<T>>) -> Result<Vec<T>, Refusal> {
        self.may(query.action()).await?;
        self.manager.management.whole(self.caller.by(), query).await
    }

    /// Refuses an action that needs a higher role than the caller's.
    async fn may(&self, action: &Action) -> Result<(), Refusal> {
        let role = self.caller.role;
        if role >= needed(action, About::Other) {
            return Ok(());
        }
        // The UUID of a test VM never becomes another VM's: the answer is still right when the action is carried out.
        let about = match action.vm() {
            Some(vm) if role >= needed(action, About::TestVm) => self.about(vm).await?,
            _ => About::Other,
        };
        let needed = needed(action, about);
        if role >= needed {
            Ok(())
        } else {
            Err(denied(&action.name(), needed, self.caller))
        }
    }

    async fn about(&self, vm: &VmRef) -> Result<About, Refusal> {
        let query = Query::show_vm(vm.clone());
        let view = self.manager.management.query(None, query).await?;
        let mode = view.replication.map(|r| r.mode);
        Ok(match mode {
            Some(ReplicationMode::TestReplica) => About::TestVm,
            Some(_) | None => About::Other,
        })
    }

    /// Carries out an action that is done when it is answered: a job in the answer is not returned to the caller.
    async fn done(&self, action: Action) -> Answered {
        self.perform(action).await.map(|_| Outcome::done())
    }

    /// Carries out an action that may start a job.
    async fn job(&self, action: Action) -> Answered {
        Ok(match self.perform(action).await?.job() {
            Some(job) => Outcome {
                value: ReturnCode::JobStarted.number(),
                out: Vec::new(),
            }
            .with("Job", job_path(job.id)),
            None => Outcome::done(),
        })
    }

    /// A VM of this host.
    async fn show(&self, vm: VmId) -> Result<VmView, Refusal> {
        self.query(Query::show_vm(vm)).await
    }

    /// A VM of this host; the target's VM as it was when the target was looked up.
    async fn view(&self, vm: VmId) -> Result<Arc<VmView>, Refusal> {
        match self.target.view.as_ref().filter(|v| v.spec.uuid == vm) {
            Some(view) => Ok(view.clone()),
            None => self.show(vm).await.map(Arc::new),
        }
    }

    /// The VM that a reference names, as it is now. Most methods need no more of it than its id.
    async fn vm(&self, parameter: &str) -> Result<VmView, Refusal> {
        self.show(self.vm_id(parameter)?).await
    }

    /// The id of the VM that a reference names. The engine refuses the action if there is no such VM.
    fn vm_id(&self, parameter: &str) -> Result<VmId, Refusal> {
        let path = self.arguments.reference(parameter)?;
        self.vm_at(parameter, path.ok_or_else(|| missing(parameter))?)
    }

    /// What was read from the other parameters. If they are wrong and the VM is not here either, the refusal is about the VM.
    async fn read<T>(&self, vm: VmId, read: Result<T, Refusal>) -> Result<T, Refusal> {
        if read.is_err() {
            self.show(vm).await?;
        }
        read
    }

    fn vm_at(&self, parameter: &str, path: &ObjectPath) -> Result<VmId, Refusal> {
        self.our_namespace(parameter, path)?;
        let class = &path.name.class;
        if !self.namespace.is_a(class, "CIM_ComputerSystem") {
            let message = format!("{parameter}: {} is no virtual machine", shown(class));
            return Err(advised(
                ReturnCode::IncorrectType,
                message,
                "name an Msvm_ComputerSystem",
            ));
        }
        let name = path.name.text("Name").unwrap_or_default();
        if name.eq_ignore_ascii_case(&self.manager.host.name) {
            let message = format!("{parameter} names this host, not a virtual machine of it");
            return Err(advised(
                ReturnCode::IncorrectType,
                message,
                "name the VM by its GUID",
            ));
        }
        name.parse().map_err(|_| {
            invalid(format!(
                "{parameter}: Name \"{}\" is not the GUID of a VM",
                shown(name)
            ))
        })
    }

    /// Refuses a path into another namespace. The host of a path is ignored: clients write many names for this one.
    fn our_namespace(&self, parameter: &str, path: &ObjectPath) -> Result<(), Refusal> {
        let other = path
            .namespace
            .as_ref()
            .filter(|n| !n.eq_ignore_ascii_case(&self.namespace.name));
        match other {
            None => Ok(()),
            Some(other) => Err(invalid(format!(
                "{parameter} leads into the namespace {}",
                shown(other)
            ))),
        }
    }

    /// Which relationship of a VM the caller means: an instance, a path or an InstanceID. `None`: nothing was said.
    async fn relationship(&self, vm: VmId) -> Result<Option<RelationshipId>, Refusal> {
        const NAME: &str = "ReplicationRelationship";
        let Some(value) = self.arguments.get(NAME) else {
            return Ok(None);
        };
        let id = super::embedded::instance_id(value);
        let named = id.as_deref().and_then(super::embedded::relationship_id);
        if let Some((_, which)) = named.filter(|(of, _)| *of == vm) {
            return Ok(Some(which));
        }
        let view = self.view(vm).await?;
        Err(invalid(format!(
            "{NAME} is none of the VM {}: its InstanceID is \"{}\"",
            view.spec.name,
            shown(&id.unwrap_or_default())
        )))
    }

    /// Which relationship of a VM the caller means, where the API requires it.
    async fn relationship_needed(&self, vm: VmId) -> Result<RelationshipId, Refusal> {
        let which = self.relationship(vm).await?;
        let which = which.ok_or_else(|| missing("ReplicationRelationship"));
        self.read(vm, which).await
    }
}

fn denied(what: &str, needed: Role, caller: &Caller) -> Refusal {
    let message = format!("{what} is for role {needed}; {} is {}", caller.name, caller.role);
    advised(ReturnCode::AccessDenied, message, "")
}

fn missing(parameter: &str) -> Refusal {
    invalid(format!("{parameter} is missing"))
}

/// A call that was carried out, with the declarations that say how to write its answer.
pub(crate) struct Called {
    pub(crate) namespace: &'static Namespace,
    pub(crate) class: &'static Class,
    pub(crate) method: &'static Method,
    pub(crate) outcome: Outcome,
}

/// What the schema says of a method.
#[derive(Clone, Copy)]
struct Declared {
    namespace: &'static Namespace,
    class: &'static Class,
    method: &'static Method,
}

impl ObjectManager {
    /// Calls a method for a client that may leave before the answer: a method that was begun is carried out nevertheless.
    ///
    /// # Errors
    /// As [`ObjectManager::invoke`].
    pub(crate) async fn carry_out(
        self: &Arc<Self>,
        caller: &Caller,
        namespace: &str,
        target: InstanceName,
        method: &str,
        arguments: Vec<(String, Raw)>,
    ) -> Result<Called, CimError> {
        let declared = self.declared(namespace, &target.class, method)?;
        let (this, caller) = (self.clone(), caller.clone());
        let call = async move { this.call(&caller, declared, &target, &arguments).await };
        let called = tokio::spawn(call.in_current_span()).await;
        let outcome = called.map_err(|e| CimError::new(Status::Failed, e.to_string()))??;
        Ok(Called {
            namespace: declared.namespace,
            class: declared.class,
            method: declared.method,
            outcome,
        })
    }

    /// Calls a method of an instance. Parameters may come in any order; those that are missing are null.
    ///
    /// # Errors
    /// No such namespace, class, method or instance; parameters that the method does not have, that come twice, or whose
    /// values are not of their types. What the host refuses is not an error but a return value.
    pub async fn invoke(
        &self,
        caller: &Caller,
        namespace: &str,
        target: &InstanceName,
        method: &str,
        arguments: Vec<(String, Raw)>,
    ) -> Result<Outcome, CimError> {
        let declared = self.declared(namespace, &target.class, method)?;
        self.call(caller, declared, target, &arguments).await
    }

    fn declared(&self, namespace: &str, class: &str, method: &str) -> Result<Declared, CimError> {
        let namespace = self.schema.namespace(namespace)?;
        let class = namespace.class(class)?;
        let method = class.method(method).ok_or_else(|| {
            let message = format!("{} has no method {}", class.name, shown(method));
            CimError::new(Status::MethodNotFound, message)
        })?;
        Ok(Declared {
            namespace,
            class,
            method,
        })
    }

    /// Looks the instance up and calls its method. A VM is looked up only after a call that was refused: for every other call
    /// the engine has found it.
    async fn call(
        &self,
        caller: &Caller,
        declared: Declared,
        name: &InstanceName,
        arguments: &[(String, Raw)],
    ) -> Result<Outcome, CimError> {
        let Some(vm) = vm_named(declared.namespace, name) else {
            let located = self.locate(declared.namespace, name).await?;
            let (name, view) = (located.name, located.view);
            return self
                .call_on(caller, declared, Target { name, view }, arguments)
                .await;
        };
        let target = Target {
            name: vm_path(vm).name,
            view: None,
        };
        let answered = self.call_on(caller, declared, target, arguments).await;
        if !answered.as_ref().is_ok_and(Outcome::is_granted) {
            self.locate(declared.namespace, name).await?;
        }
        answered
    }

    async fn call_on(
        &self,
        caller: &Caller,
        declared: Declared,
        target: Target,
        arguments: &[(String, Raw)],
    ) -> Result<Outcome, CimError> {
        let method = &declared.method.name;
        let Some(found) = table::find(&target.name.class, method) else {
            let message = format!("{}.{method} is not served", declared.class.name);
            return Err(CimError::new(Status::MethodNotAvailable, message));
        };
        let call = Call {
            manager: self,
            namespace: declared.namespace,
            caller,
            arguments: Arguments::typed(declared.namespace, declared.method, arguments)?,
            target,
        };
        let about = call.arguments.about(&call.target.name);
        Ok(match answer(&call, &found).await {
            Ok(outcome) => {
                let value = outcome.value;
                info!(caller = caller.name, method, about, value, "method carried out");
                outcome
            }
            Err(refusal) if refusal.request.is_some() => {
                // Nothing was done yet. The text says what has to be done, and a return value has no place for it.
                let message = hint::told(&refusal.message, refusal.hint.as_ref());
                warn!(caller = caller.name, method, about, message, "method waits");
                return Err(CimError::new(Status::AccessDenied, message));
            }
            Err(refusal) => {
                let value = found.numbers().of(refusal.code);
                let (why, hint) = (refusal.message, refusal.hint.as_ref().map(hint::words));
                warn!(
                    caller = caller.name,
                    method, about, value, why, hint, "method refused"
                );
                Outcome {
                    value,
                    out: Vec::new(),
                }
            }
        })
    }
}

/// Carries out a call, if the method is served and the caller's role is enough for it.
async fn answer(call: &Call<'_>, found: &table::Found) -> Answered {
    match found {
        table::Found::Not(why) => Err(advised(ReturnCode::NotSupported, why.reason, "")),
        table::Found::Served(entry) if call.caller.role < entry.role => {
            Err(denied(entry.method, entry.role, call.caller))
        }
        table::Found::Served(entry) => (entry.handler)(call).await,
    }
}
