//! What the admin interface tells of the spool, and whom.

use super::*;

async fn ask(address: SocketAddr, method: &str, path: &str, lines: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\n{lines}\r\n");
    Client::to(address).await.raw(head.as_bytes(), b"").await
}

/// "Same access rules as the other pages; `admin.open` does not open these."
#[tokio::test]
async fn the_spool_s_pages_are_for_whoever_has_the_token() {
    let rig = Rig::new(&format!("  token: {TOKEN}\n  open: [health, metrics]\n")).await;
    rig.put_refused("refused", b"<script>").await;
    let number = rig.number("refused").await;
    let entry = format!("/spool/entries/{number}");
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let pages = [
        ("GET", "/spool".to_owned()),
        ("GET", "/spool/entries?after=0&most=1".to_owned()),
        ("GET", entry.clone()),
        ("GET", format!("{entry}/body")),
        ("GET", format!("{entry}/verify")),
        ("POST", format!("{entry}/retry")),
        ("POST", "/spool/retry".to_owned()),
    ];
    rig.proxy.set_away(true);
    for (method, path) in &pages {
        for line in ["", "Authorization: Bearer canary-token-of-the-admiN\r\n"] {
            assert_eq!(ask(rig.address, method, path, line).await.status, 401, "{path}");
        }
        let other = if *method == "GET" { "POST" } else { "GET" };
        for other in [other, "PUT", "DELETE", "OPTIONS"] {
            let answer = ask(rig.address, other, path, &token).await;
            assert_eq!(answer.status, 405, "{other} {path}");
            assert!(answer.header("allow").is_some_and(|allow| allow.starts_with(method)));
        }
        // A page of another site, in the browser of somebody who may.
        let from = format!("{token}Origin: https://elsewhere.example.com\r\n");
        let status = ask(rig.address, method, path, &from).await.status;
        assert_eq!(status, if *method == "POST" { 403 } else { 200 }, "{path}");
    }
    assert_eq!(rig.status().await["quarantined"], 1, "somebody had it retried");
    let body = ask(rig.address, "GET", &format!("{entry}/body"), &token).await;
    assert_eq!(body.text(), "<script>");
    assert_eq!(body.header("content-type").as_deref(), Some("application/octet-stream"));
    assert_eq!(body.header("x-content-type-options").as_deref(), Some("nosniff"));
    assert_eq!(body.header("content-disposition").as_deref(), Some("attachment"));
    for path in
        ["/spool/", "/spool/entries/", "/spool/entries/1", "/spool/entries/../retry", "/spools"]
    {
        assert_eq!(ask(rig.address, "GET", path, &token).await.status, 404, "{path}");
    }
    let odd = ask(rig.address, "GET", "/spool/entries?most=x", &token).await;
    assert_eq!(odd.status, 400);
    for (method, path) in &pages {
        assert_eq!(ask(rig.address, method, path, &token).await.status, 200, "{path}");
    }
    assert_eq!(rig.status().await["waiting"], 1);
}

/// What clients have uploaded is not for everybody who reaches the loopback, nor is what is delivered.
#[tokio::test]
async fn bodies_are_given_to_nobody_where_nothing_is_asked_for() {
    let mut rig = Rig::new("").await;
    rig.put_refused("refused", b"x").await;
    let refused = rig.number("refused").await;
    rig.proxy.set_away(true);
    rig.put("body", b"x").await;
    let number = rig.number("body").await;
    let answer = ask(rig.address, "GET", &format!("/spool/entries/{number}/body"), "").await;
    assert_eq!((answer.status, answer.text().contains("admin.token")), (403, true));
    let error = rig.run(&["export", &number, "-"]).await.failed(69);
    assert!(error.contains("bodies and retries need admin.token"), "{error}");
    rig.run(&["verify"]).await.well();
    for path in ["/spool/retry".to_owned(), format!("/spool/entries/{refused}/retry")] {
        assert_eq!(ask(rig.address, "POST", &path, "").await.status, 403, "{path}");
    }
    for arguments in [&["retry", &refused][..], &["retry", "--all"]] {
        let error = rig.run(arguments).await.failed(69);
        assert!(error.contains("bodies and retries need admin.token"), "{error}");
    }
    assert_eq!(rig.status().await["quarantined"], 1);
    rig.stop().await;
    rig.run(&["retry", &refused]).await.well();
}

/// "/readyz stays 200 but its body says degraded"; the status page and its JSON tell the same.
#[tokio::test]
async fn what_is_set_aside_is_told_where_people_look() {
    let rig = Rig::new("").await;
    assert_eq!(get(rig.address, "/readyz").await, "ready\n");
    rig.put_refused("refused", b"x").await;
    let answer = ask(rig.address, "GET", "/readyz", "").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (200, "ready, degraded: uploads set aside: 1\n")
    );
    let status: Value = serde_json::from_str(&get(rig.address, "/status.json").await).unwrap();
    assert_eq!(status["spool"]["quarantined"], 1);
    let page = get(rig.address, "/").await;
    assert!(page.contains("<th>Spool</th><td>0 wait, 1 B; 1 set aside</td>"), "{page}");
    // A gateway without a spool says nothing of one.
    let plain = Setup::new(&rig.backend, rig.proxy.address).start().await;
    assert!(!get(plain.admin, "/").await.contains("Spool"));
    assert_eq!(ask(plain.admin, "GET", "/spool", "").await.status, 404);
}
