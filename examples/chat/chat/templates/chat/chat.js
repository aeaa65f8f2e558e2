// The room's page: a WebSocket, the log of what is said, and who is here.
//
// What people typed gets into the page as textContent only. A message that was sent stays in `unconfirmed` until it
// comes back from the room; after a lost connection it is sent again under the same id, and everybody's page shows an
// id of a person once.

const ANSWER_WITHIN = 15_000; // milliseconds for whatever is sent; after that the connection is taken for dead
const PING_EVERY = 30_000;
const GONE_AFTER = 150_000; // without a ping: browsers slow the pages behind others down to one a minute
const RETRY_FIRST = 500;
const RETRY_LAST = 10_000;
const LOG_LENGTH = 500;
const REJECTED = 4400; // as in consumers.py

const find = (id) => document.getElementById(id);
const [connection, here, count, list] = ["connection", "here", "count", "people"].map(find);
const [log, problem, compose, textInput] = ["log", "problem", "compose", "text"].map(find);
const [join, nameInput] = ["join", "name"].map(find);
const room = document.body.dataset.room;

let name = "";
let me = {}; // person, connection and name, as the server calls us
let ticket = ""; // lets us come back as the same person
let lastId = 0;
const unconfirmed = new Map(); // id -> {text, item}: our messages that have not come back yet
const newest = new Map(); // person -> the id of their newest message
const people = new Map(); // person -> {name, connection, seen}

// The connection.

let socket = null;
let welcomed = false; // nothing may be sent earlier: what is unconfirmed goes first
let retry = 0; // the timer
let pause = RETRY_FIRST;
let asked = 0; // since when we wait for an answer; 0 when we do not
let pinged = 0;

function connect() {
  clearTimeout(retry);
  forsake();
  const address = new URL("/ws", location.href);
  address.protocol = location.protocol.replace("http", "ws");
  address.search = new URLSearchParams({ room, name, ticket });
  showConnection("connecting", "Connecting…");
  asked = pinged = Date.now();
  socket = new WebSocket(address);
  socket.addEventListener("message", hear);
  socket.addEventListener("close", disconnected);
}

function forsake() {
  socket?.removeEventListener("message", hear);
  socket?.removeEventListener("close", disconnected);
  socket?.close();
  socket = null;
  welcomed = false;
  asked = 0;
}

function hear({ data }) {
  asked = 0;
  const event = JSON.parse(data);
  on[event.type]?.(event);
}

function disconnected({ code }) {
  forsake();
  if (code === REJECTED) return;
  showConnection("lost", "No connection. Trying again…");
  retry = setTimeout(connect, pause * (0.5 + Math.random()));
  pause = Math.min(pause * 2, RETRY_LAST);
}

function transmit(message) {
  if (!welcomed || socket.readyState !== WebSocket.OPEN) return; // the next welcome brings it up again
  asked ||= Date.now();
  socket.send(JSON.stringify(message));
}

function look() {
  const now = Date.now();
  if (asked && now - asked > ANSWER_WITHIN) return connect();
  if (!socket || now - pinged < PING_EVERY) return;
  pinged = now;
  transmit({ type: "ping" });
  for (const [person, { seen }] of people) {
    if (person !== me.person && now - seen > GONE_AFTER) people.delete(person);
  }
  showPeople();
}

// What the server tells.

const on = {
  welcome(event) {
    const first = !ticket;
    welcomed = true;
    me = event;
    ticket = event.ticket;
    pause = RETRY_FIRST;
    showConnection("connected", `Connected, by server process ${event.process}.`);
    problem.textContent = "";
    history.replaceState({ name }, "");
    people.clear();
    note(event);
    if (first) show("You are in the room as ", named(event.name), ".");
    else show("Connected again. What was said meanwhile is not shown.");
    for (const [id, { text }] of unconfirmed) transmit({ type: "say", id, text });
  },
  joined(event) {
    if (note(event)) show(named(event.name), " has joined.");
  },
  present: note,
  left(event) {
    if (people.get(event.person)?.connection !== event.connection) return; // they are back already
    people.delete(event.person);
    showPeople();
    show(named(event.name), " has left.");
  },
  said(event) {
    if (event.person) {
      if (event.id <= (newest.get(event.person) ?? 0)) return;
      newest.set(event.person, event.id);
      note(event);
    }
    const own = event.person === me.person && unconfirmed.get(event.id);
    if (!own) return add(message(event));
    unconfirmed.delete(event.id);
    setState(own.item, "sent");
  },
  refused(event) {
    const own = unconfirmed.get(event.id);
    if (!own) return;
    unconfirmed.delete(event.id);
    setState(own.item, "refused", "not sent");
    problem.textContent = `Not sent: ${event.text}`;
  },
  notice(event) {
    show(event.text);
  },
  rejected(event) {
    name = "";
    problem.textContent = event.text;
    showConnection("", "");
    enter(false);
  },
};

// Take note of who is here; whether that is news.
function note({ person, connection, name }) {
  const news = !people.has(person);
  people.set(person, { name, connection, seen: Date.now() });
  if (news) showPeople();
  return news;
}

// The page.

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

let atEnd = true; // of the log: there it follows what comes, and a phone's keyboard that takes its place

function add(item) {
  log.append(item);
  while (log.children.length > LOG_LENGTH) log.firstElementChild.remove();
  if (item.classList.contains("own")) atEnd = true;
  follow();
}

function follow() {
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function show(...parts) {
  const item = element("p", "event", "");
  item.append(...parts);
  add(item);
}

function message({ person, name, text }) {
  const item = coloured(element("p", "message", ""), person);
  item.dataset.from = person ?? name;
  item.classList.toggle("again", log.lastElementChild?.dataset.from === item.dataset.from);
  const foot = element("small", "foot", new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
  item.append(avatar(name), named(name, "author"), " ", element("span", "text", text), " ", foot);
  return item;
}

function setState(item, state, text = state) {
  item.classList.remove("sending");
  item.classList.add(state);
  const label = item.querySelector(".state") ?? item.lastElementChild.appendChild(element("span", "state", ""));
  label.setAttribute("aria-live", "off"); // a screen reader need not say "sent" each time
  label.textContent = ` ${text}`;
}

function showPeople() {
  const sorted = [...people].sort(([, a], [, b]) => a.name.localeCompare(b.name));
  count.textContent = `(${sorted.length})`;
  list.replaceChildren(...sorted.map(([person, { name }]) => {
    const item = coloured(element("li", "", ""), person);
    item.append(avatar(name), named(name), person === me.person ? " (you)" : "");
    return item;
  }));
}

function showConnection(state, text) {
  connection.className = state;
  connection.textContent = text;
}

// A name may be written from right to left, which must not turn around what stands beside it.
function named(name, className = "") {
  return element("bdi", className, name);
}

function avatar(name) {
  const made = element("span", "avatar", [...name][0].toUpperCase());
  made.setAttribute("aria-hidden", "true");
  return made;
}

// A person's id is random, and so is their colour. What is no person has none.
function coloured(item, person) {
  if (person) item.style.setProperty("--hue", parseInt(person.slice(0, 4), 16) % 360);
  else item.style.setProperty("--chroma", 0);
  return item;
}

function enter(inside) {
  join.hidden = inside;
  for (const part of [here, log, compose]) part.hidden = !inside;
  (inside ? textInput : nameInput).focus();
}

join.addEventListener("submit", (event) => {
  event.preventDefault();
  name = nameInput.value;
  enter(true);
  connect();
});

compose.addEventListener("submit", (event) => {
  event.preventDefault();
  const text = textInput.value.trim();
  textInput.value = "";
  textInput.focus(); // also after the button: one writes on, and a phone's keyboard stays
  if (!text) return;
  problem.textContent = "";
  const id = ++lastId;
  const item = message({ person: me.person, name: me.name ?? name, text });
  item.classList.add("own");
  setState(item, "sending", "sending…");
  add(item);
  unconfirmed.set(id, { text, item });
  transmit({ type: "say", id, text });
});

let height = 0; // of the log's view, when it last followed
log.addEventListener("scroll", () => {
  if (log.clientHeight !== height) return; // nobody scrolls: the view has shrunk, and is about to follow
  atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
});
new ResizeObserver(() => {
  height = log.clientHeight;
  follow();
}).observe(log);

addEventListener("online", () => {
  if (name && !welcomed) connect();
});
document.addEventListener("visibilitychange", look);
setInterval(look, 1_000);

enter(false); // only now: before the script was here, the form would have left the page
if (history.state?.name) {
  nameInput.value = history.state.name;
  join.requestSubmit();
}
