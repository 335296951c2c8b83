//! Hints to ask for the same again: later, in another way, or by another person.

use super::hints;
use crate::ids::RequestId;

hints! {
    /// How to ask again.
    Again {
        /// Now, or a little later.
        Later = "try-again",
        /// Nothing is to be done: it is tried again by itself.
        ByItself = "retried-by-itself",
        /// With the UUID of the VM, because several have the name.
        ByUuid = "name-by-uuid",
        /// From the beginning of the list.
        FromBeginning = "list-from-beginning",
        /// With the place that a page of the list has named.
        FromNamedPlace = "give-named-place",
        /// With an earlier time.
        Earlier = "choose-earlier-time",
        /// With an absolute path that has no `..` in it.
        AbsolutePath = "write-absolute-path",
        /// With a body that is JSON.
        Json = "send-json",
        /// Without a body.
        NoBody = "send-no-body",
        /// As an administrator of this host.
        AsAdministrator = "run-as-administrator",
        /// By a way that says who asks: the management socket, or the management API.
        AsKnownCaller = "ask-as-known-caller",
        /// As another user than the one who asked first.
        AsOtherPerson = "ask-as-other-person",
        /// The whole request, because the earlier one has ended.
        Anything = "ask-again",
        /// After a look whether it was done already.
        IfNotDone = "check-then-ask-again",
        /// A second person confirms the request.
        Confirm {
            /// Which one.
            request: RequestId,
        } = "confirm-request",
        /// Requests that wait are confirmed or denied first.
        DecideRequests = "decide-requests",
        /// Not at all: this is a fault of the program, to be reported.
        ReportBug = "report-bug",
    }
}
