//! A real Chromium for tests. They find things as a screen reader does, by role and name, and use
//! them as people do, by mouse and keys.

mod devtools;

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result, bail, ensure};
use data_encoding::BASE64;
use ev_testkit::{PATIENCE, wait_for};
use serde_json::{Value, json};

use devtools::Devtools;

/// Longer than any way by keyboard through a page of a few charge points.
const TABS_MAX: usize = 60;
/// Milliseconds between the clicks of a quick hand.
const DOUBLE_CLICK_MS: u64 = 60;

/// Notes every text that is ever shown as an alert, also one that is gone at the next look.
const NOTE_ALERTS: &str = r"
(() => {
  window.evAlerts = [];
  const look = () => {
    for (const alert of document.querySelectorAll('[role=alert]')) {
      const text = alert.checkVisibility() ? alert.innerText.trim() : '';
      if (text && !window.evAlerts.includes(text)) window.evAlerts.push(text);
    }
  };
  const all = { subtree: true, childList: true, characterData: true, attributes: true };
  new MutationObserver(look).observe(document, all);
})()";

/// Whether a click there meets the element, or something in it, or what it lies in.
const IS_HIT: &str = "function(x, y) {
  const hit = document.elementFromPoint(x, y);
  return !!hit && (this.contains(hit) || hit.contains(this)
    || [...(this.labels ?? [])].some(label => label.contains(hit)));
}";

/// What is pressed has stayed where it is for so long.
const STAYS: std::time::Duration = std::time::Duration::from_millis(60);

/// What axe finds that is serious or critical, one line each.
const SERIOUS: &str =
    "axe.run(document, { resultTypes: ['violations'] }).then(found => found.violations
  .filter(each => ['serious', 'critical'].includes(each.impact))
  .map(each => `${each.impact}: ${each.id}: ${each.help}: `
    + each.nodes.map(node => `${node.target} (${node.failureSummary})`).join('; ')))";

/// A running browser. Dropping it ends it.
#[derive(Debug, Clone)]
pub struct Browser {
    devtools: Arc<Devtools>,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// CSS pixels.
    pub width: u32,
    /// CSS pixels.
    pub height: u32,
    /// A hand-held with a touch screen.
    pub is_phone: bool,
    /// The person prefers dark colours.
    pub is_dark: bool,
    /// The page's scripts run.
    pub scripts: bool,
}

impl Look {
    /// A window on a desk.
    pub const DESK: Self = Self {
        width: 1_200,
        height: 900,
        is_phone: false,
        is_dark: false,
        scripts: true,
    };
    /// The narrowest phone in use.
    pub const PHONE: Self = Self {
        width: 320,
        height: 640,
        is_phone: true,
        ..Self::DESK
    };

    /// In dark colours.
    #[must_use]
    pub const fn dark(self) -> Self {
        Self {
            is_dark: true,
            ..self
        }
    }

    /// Without the page's scripts.
    #[must_use]
    pub const fn without_scripts(self) -> Self {
        Self {
            scripts: false,
            ..self
        }
    }
}

/// A tab.
#[derive(Debug)]
pub struct Tab {
    devtools: Arc<Devtools>,
    session: String,
}

/// Something on a page, as a screen reader knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// `button`, `link`, `checkbox` and so on.
    pub role: String,
    /// What is read out.
    pub name: String,
    /// What is read out after it: what it is about.
    pub description: String,
    /// It can be seen and not used.
    pub is_disabled: bool,
    node: i64,
}

impl Browser {
    /// Starts one; with a window where `EV_BROWSER_VISIBLE` is set.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> Result<Self> {
        let is_visible = std::env::var_os("EV_BROWSER_VISIBLE").is_some();
        let devtools = Arc::new(Devtools::start(is_visible)?);
        devtools
            .call(None, "Browser.getVersion", json!({}))
            .await
            .context("no browser: run the tests with `ops/dev test`, which installs chromium")?;
        Ok(Self { devtools })
    }

    /// Opens an address in a tab; all tabs are of one person.
    ///
    /// # Errors
    /// When the address does not answer.
    pub async fn open(&self, url: &str, look: Look) -> Result<Tab> {
        let devtools = Arc::clone(&self.devtools);
        // In a window of its own, or the browser would spare itself the work for a hidden tab.
        let target = json!({ "url": "about:blank", "newWindow": true });
        let target = devtools.call(None, "Target.createTarget", target).await?;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = devtools.call(None, "Target.attachToTarget", attach).await?;
        let session = attached["sessionId"].as_str().context("a session")?;
        let page = Tab {
            session: session.to_owned(),
            devtools,
        };
        for domain in ["Page", "Runtime", "DOM", "Accessibility", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({})).await?;
        }
        let alerts = json!({ "source": NOTE_ALERTS });
        page.call("Page.addScriptToEvaluateOnNewDocument", alerts)
            .await?;
        page.call(
            "Emulation.setFocusEmulationEnabled",
            json!({ "enabled": true }),
        )
        .await?;
        page.look(look).await?;
        page.go(url).await?;
        Ok(page)
    }
}

impl Tab {
    async fn call(&self, method: &str, params: Value) -> Result<Value> {
        self.devtools
            .call(Some(&self.session), method, params)
            .await
    }

    /// Looks at it in another way.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn look(&self, look: Look) -> Result<()> {
        let metrics = json!({
            "width": look.width,
            "height": look.height,
            "deviceScaleFactor": 1,
            "mobile": look.is_phone,
        });
        self.call("Emulation.setDeviceMetricsOverride", metrics)
            .await?;
        let scheme = if look.is_dark { "dark" } else { "light" };
        let media = json!({ "features": [
            { "name": "prefers-color-scheme", "value": scheme },
            // What moves has no end to wait for.
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]});
        self.call("Emulation.setEmulatedMedia", media).await?;
        let off = json!({ "value": !look.scripts });
        self.call("Emulation.setScriptExecutionDisabled", off)
            .await?;
        Ok(())
    }

    /// Goes to an address and waits until it is loaded.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn go(&self, url: &str) -> Result<()> {
        self.leave().await?;
        let went = self.call("Page.navigate", json!({ "url": url })).await?;
        if let Some(error) = went["errorText"].as_str() {
            bail!("go to {url}: {error}");
        }
        self.arrived().await
    }

    /// Loads it again.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn reload(&self) -> Result<()> {
        self.leave().await?;
        self.call("Page.reload", json!({})).await?;
        self.arrived().await
    }

    /// Marks the document that is about to be left, for [`Tab::arrived`].
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn leave(&self) -> Result<()> {
        self.evaluate("window.evLeft = true").await?;
        Ok(())
    }

    /// Waits until another document than the marked one is loaded.
    ///
    /// # Errors
    /// When none comes.
    pub async fn arrived(&self) -> Result<()> {
        wait_for("the page is loaded", PATIENCE, async || {
            let state = "window.evLeft ? 'left' : document.readyState";
            let state = self.evaluate(state).await?;
            ensure!(state == "complete", "it is {state}");
            Ok(())
        })
        .await
    }

    /// The value of an expression in the page, of a promise what it comes to.
    ///
    /// # Errors
    /// When it throws.
    pub async fn evaluate(&self, expression: &str) -> Result<Value> {
        let params = json!({
            "expression": expression,
            "awaitPromise": true,
            "returnByValue": true,
        });
        let answer = self.call("Runtime.evaluate", params).await?;
        if let Some(thrown) = answer.get("exceptionDetails") {
            let text = &thrown["exception"]["description"];
            bail!(
                "{} in {expression}",
                text.as_str().unwrap_or("an exception")
            );
        }
        Ok(answer["result"]["value"].clone())
    }

    /// What can be read in the first element of a selector.
    ///
    /// # Errors
    /// When there is none.
    pub async fn text(&self, selector: &str) -> Result<String> {
        let element = format!("document.querySelector({})?.innerText", json!(selector));
        let text = self.evaluate(&element).await?;
        let text = text.as_str().with_context(|| format!("no {selector}"))?;
        Ok(text.to_owned())
    }

    /// Waits until an element says this, letters large or small.
    ///
    /// # Errors
    /// When it does not; the message has what it says.
    pub async fn says(&self, selector: &str, part: &str) -> Result<()> {
        let wanted = part.to_lowercase();
        let what = format!("{selector} says {part:?}");
        wait_for(&what, PATIENCE, async || {
            let text = self.text(selector).await?;
            ensure!(text.to_lowercase().contains(&wanted), "it says: {text}");
            Ok(())
        })
        .await
    }

    /// Waits until a text can be read nowhere, letters large or small.
    ///
    /// # Errors
    /// When it stays.
    pub async fn says_no_more(&self, part: &str) -> Result<()> {
        let unwanted = part.to_lowercase();
        let what = format!("the page no longer says {part:?}");
        wait_for(&what, PATIENCE, async || {
            let text = self.text("body").await?;
            ensure!(!text.to_lowercase().contains(&unwanted), "it says: {text}");
            Ok(())
        })
        .await
    }

    /// What there is of a role whose name and description have all these words, letters large or
    /// small.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn all(&self, role: &str, words: &str) -> Result<Vec<Element>> {
        let document = self.call("DOM.getDocument", json!({ "depth": 0 })).await?;
        let query = json!({ "nodeId": document["root"]["nodeId"], "role": role });
        let found = self.call("Accessibility.queryAXTree", query).await?;
        Ok(found["nodes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|node| node["ignored"] != true)
            .filter_map(Element::new)
            .filter(|element| element.is(role, words))
            .collect())
    }

    /// Waits until there is one that can be used.
    ///
    /// # Errors
    /// When none comes; the message has those of this role that there are.
    pub async fn one(&self, role: &str, words: &str) -> Result<Element> {
        wait_for(
            &format!("there is a {role} {words:?}"),
            PATIENCE,
            async || {
                let found = self.all(role, words).await?;
                match found.into_iter().find(|element| !element.is_disabled) {
                    Some(element) => Ok(element),
                    None => bail!("there are {:?}", self.all(role, "").await?),
                }
            },
        )
        .await
    }

    /// Waits until there is none that can be used.
    ///
    /// # Errors
    /// When one stays.
    pub async fn none(&self, role: &str, words: &str) -> Result<()> {
        wait_for(
            &format!("there is no {role} {words:?}"),
            PATIENCE,
            async || {
                let mut found = self.all(role, words).await?;
                found.retain(|element| !element.is_disabled);
                ensure!(found.is_empty(), "{found:?}");
                Ok(())
            },
        )
        .await
    }

    /// Clicks on what has this role and name, once there is one.
    ///
    /// # Errors
    /// When none comes or something lies above it.
    pub async fn press(&self, role: &str, words: &str) -> Result<()> {
        self.press_at(self.place(role, words).await?).await
    }

    /// Clicks twice, as a quick hand does: the second time on whatever is there by then.
    ///
    /// # Errors
    /// As [`Tab::press`].
    pub async fn press_twice(&self, role: &str, words: &str) -> Result<()> {
        let (x, y) = self.place(role, words).await?;
        self.click(x, y, 1).await?;
        tokio::time::sleep(std::time::Duration::from_millis(DOUBLE_CLICK_MS)).await;
        self.click(x, y, 2).await
    }

    /// Clicks at a [`Tab::place`].
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn press_at(&self, (x, y): (f64, f64)) -> Result<()> {
        self.click(x, y, 1).await
    }

    async fn click(&self, x: f64, y: f64, count: u32) -> Result<()> {
        for what in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let button = if what == "mouseMoved" { "none" } else { "left" };
            let event =
                json!({ "type": what, "x": x, "y": y, "button": button, "clickCount": count });
            self.call("Input.dispatchMouseEvent", event).await?;
        }
        Ok(())
    }

    /// Where a click meets it, once there is one that nothing lies above.
    ///
    /// # Errors
    /// When none comes.
    pub async fn place(&self, role: &str, words: &str) -> Result<(f64, f64)> {
        wait_for(
            &format!("{role} {words:?} can be met"),
            PATIENCE,
            async || {
                let element = self.one(role, words).await?;
                let node = json!({ "backendNodeId": element.node });
                self.call("DOM.scrollIntoViewIfNeeded", node.clone())
                    .await?;
                let corners = self.corners(&node).await?;
                ensure!(corners.len() == 8, "{element:?} has no place");
                // What moves is not met, by a person neither.
                tokio::time::sleep(STAYS).await;
                ensure!(corners == self.corners(&node).await?, "{element:?} moves");
                let (x, y) = (
                    f64::midpoint(corners[0], corners[4]),
                    f64::midpoint(corners[1], corners[5]),
                );
                let is_hit = self.on(&element, IS_HIT, json!([x, y])).await?;
                ensure!(is_hit == true, "something lies above {element:?}");
                Ok((x, y))
            },
        )
        .await
    }

    /// Where the corners of an element are, each as x and y.
    async fn corners(&self, node: &Value) -> Result<Vec<f64>> {
        let quads = self.call("DOM.getContentQuads", node.clone()).await?;
        let corners = quads["quads"][0].as_array().into_iter().flatten();
        Ok(corners.filter_map(Value::as_f64).collect())
    }

    /// Calls a function on an element.
    ///
    /// # Errors
    /// When it is gone or the function throws.
    pub async fn on(&self, element: &Element, function: &str, args: Value) -> Result<Value> {
        let node = json!({ "backendNodeId": element.node });
        let object = self.call("DOM.resolveNode", node).await?;
        let args: Vec<Value> = args
            .as_array()
            .into_iter()
            .flatten()
            .map(|arg| json!({ "value": arg }))
            .collect();
        let params = json!({
            "objectId": object["object"]["objectId"],
            "functionDeclaration": function,
            "arguments": args,
            "returnByValue": true,
        });
        let answer = self.call("Runtime.callFunctionOn", params).await?;
        ensure!(
            answer.get("exceptionDetails").is_none(),
            "{}",
            answer["exceptionDetails"]
        );
        Ok(answer["result"]["value"].clone())
    }

    /// Presses a key: `Tab`, `Enter`, `Escape`, or a letter or a space.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn key(&self, key: &str) -> Result<()> {
        let (code, number, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            "Escape" => ("Escape", 27, ""),
            " " => ("Space", 32, " "),
            "ArrowDown" => ("ArrowDown", 40, ""),
            "ArrowUp" => ("ArrowUp", 38, ""),
            other => ("", 0, other),
        };
        let kind = if text.is_empty() {
            "rawKeyDown"
        } else {
            "keyDown"
        };
        let mut event = json!({
            "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number,
        });
        if !text.is_empty() {
            event["text"] = text.into();
        }
        self.call("Input.dispatchKeyEvent", event.clone()).await?;
        event["type"] = "keyUp".into();
        self.call("Input.dispatchKeyEvent", event).await?;
        Ok(())
    }

    /// Types a text where the focus is.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn write(&self, text: &str) -> Result<()> {
        for letter in text.chars() {
            self.key(&letter.to_string()).await?;
        }
        Ok(())
    }

    /// Where the focus is.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn focused(&self) -> Result<Option<Element>> {
        let active = json!({ "expression": "document.activeElement" });
        let active = self.call("Runtime.evaluate", active).await?;
        let partial = json!({
            "objectId": active["result"]["objectId"],
            "fetchRelatives": false,
        });
        let tree = self.call("Accessibility.getPartialAXTree", partial).await?;
        Ok(Element::new(&tree["nodes"][0]))
    }

    /// Goes on by Tab until the focus is on what has this role and name, and can be seen there.
    ///
    /// # Errors
    /// When it does not get there; the message has where it was.
    pub async fn tab_to(&self, role: &str, words: &str) -> Result<Element> {
        let mut passed = Vec::new();
        for _ in 0..TABS_MAX {
            self.key("Tab").await?;
            let Some(element) = self.focused().await? else {
                continue;
            };
            if element.is(role, words) {
                let shown = "function() { const s = getComputedStyle(this);
                    return (s.outlineStyle != 'none' && s.outlineWidth != '0px')
                        || s.boxShadow != 'none'; }";
                let shown = self.on(&element, shown, json!([])).await?;
                ensure!(shown == true, "the focus on {element:?} cannot be seen");
                return Ok(element);
            }
            passed.push(format!("{} {:?}", element.role, element.name));
        }
        bail!("no {role} {words:?} by keyboard; there are: {passed:?}")
    }

    /// Every text that was shown as an alert since the document came.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn alerts(&self) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.evaluate("evAlerts").await?)?)
    }

    /// What the browser's console has of errors and broken rules.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let events = self.devtools.events(&self.session);
        events.iter().filter_map(complaint).collect()
    }

    /// Every address that was asked.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        let events = self.devtools.events(&self.session);
        events
            .iter()
            .filter(|event| event["method"] == "Network.requestWillBeSent")
            .filter_map(|event| event["params"]["request"]["url"].as_str())
            .map(str::to_owned)
            .collect()
    }

    /// How many CSS pixels it is wider than the window. A phone zooms out until all of it fits, so
    /// that its `innerWidth` says nothing.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn overflow(&self) -> Result<i64> {
        let wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth";
        let wider = self.evaluate(wider).await?;
        wider.as_i64().context("a width is a number")
    }

    /// What axe-core finds that is serious or critical, one line each.
    ///
    /// # Errors
    /// When axe-core is not there; the message says how to get it.
    pub async fn axe(&self) -> Result<Vec<String>> {
        let missing = "run the tests with `ops/dev test`, which fetches axe-core";
        let path = std::env::var_os("EV_AXE").context(missing)?;
        let source = std::fs::read_to_string(&path)
            .with_context(|| format!("read axe-core at {}; {missing}", path.display()))?;
        self.evaluate(&format!("{source}; undefined")).await?;
        Ok(serde_json::from_value(self.evaluate(SERIOUS).await?)?)
    }

    /// A picture of what the window shows, into a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn picture(&self, path: &Path) -> Result<()> {
        let png = json!({ "format": "png", "optimizeForSpeed": false });
        let shot = self.call("Page.captureScreenshot", png).await?;
        let data = shot["data"].as_str().context("a picture")?;
        let bytes = BASE64.decode(data.as_bytes()).context("a picture")?;
        std::fs::write(path, bytes).with_context(|| format!("write {}", path.display()))
    }
}

impl Element {
    fn new(node: &Value) -> Option<Self> {
        let properties = node["properties"].as_array();
        Some(Self {
            role: node["role"]["value"].as_str()?.to_owned(),
            name: node["name"]["value"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            description: node["description"]["value"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
            is_disabled: properties.is_some_and(|all| {
                all.iter()
                    .any(|each| each["name"] == "disabled" && each["value"]["value"] == true)
            }),
            node: node["backendDOMNodeId"].as_i64()?,
        })
    }

    fn is(&self, role: &str, words: &str) -> bool {
        let read = format!("{} {}", self.name, self.description).to_lowercase();
        self.role == role
            && words
                .to_lowercase()
                .split_whitespace()
                .all(|word| read.contains(word))
    }
}

fn complaint(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Runtime.consoleAPICalled" => {
            matches!(params["type"].as_str()?, "error" | "assert" | "warning")
                .then(|| params["args"].to_string())
        }
        "Log.entryAdded" => {
            let entry = &params["entry"];
            let text = format!("{} {}", entry["text"], entry["url"]);
            (entry["level"] == "error").then_some(text)
        }
        _ => None,
    }
}
