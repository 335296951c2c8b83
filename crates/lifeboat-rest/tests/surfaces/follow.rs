//! Following a job while more changes than a reader takes.

use lifeboat_engine::action::{Action, Answer, JobView, What};
use lifeboat_model::{JobState, Timestamp};
use lifeboat_rest::Client;

use crate::rest::host;
use crate::samples::job;

#[tokio::test]
async fn a_follower_that_missed_something_asks_again() {
    let host = host(|_| Ok(Answer::Job(job())));
    let mut follower = Client::new(&host.socket).follow(job().id).await.unwrap();
    assert_eq!(follower.next().await.unwrap(), Some(job()));
    let asked = || host.fake.asked.lock().unwrap().clone();
    let show = Action::ShowJob { job: job().id };
    assert_eq!(asked(), std::slice::from_ref(&show));
    host.fake.feed.lose();
    let done = JobView {
        percent: 100,
        state: JobState::Completed,
        ..job()
    };
    let told = What::Job(Box::new(done.clone()));
    assert!(host.fake.feed.tell(Timestamp(0), || told));
    assert_eq!(follower.next().await.unwrap(), Some(done));
    assert_eq!(asked(), [show.clone(), show], "once more, and no more than that");
}
