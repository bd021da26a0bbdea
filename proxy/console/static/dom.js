// Building the page's nodes. Text is only ever set as text: nothing an answer says can become markup.

/** An element. `props`: attributes; `on...` a listener; `class`; `text`. Children: nodes, strings, null. */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  add(node, children);
  return node;
}

/** The same in SVG. */
export function svg(tag, props = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Make `node` hold these children, changing only what differs: what a person has focused, opened or selected
 * stays as it is while figures arrive. Listeners of nodes that stay are those of the first time.
 */
export function fill(node, ...children) {
  const fresh = node.cloneNode(false);
  add(fresh, children);
  patchChildren(node, fresh);
}

const THEIRS = new Set(["open", "style"]); // set by the person or by `place`, never by a figure

function patchChildren(node, fresh) {
  const wanted = [...fresh.childNodes];
  wanted.forEach((next, index) => {
    const old = node.childNodes[index];
    if (old === undefined) node.append(next);
    else patch(old, next);
  });
  while (node.childNodes.length > wanted.length) node.lastChild.remove();
}

function patch(old, next) {
  if (old.isEqualNode(next)) return;
  if (old.nodeType !== next.nodeType || old.nodeName !== next.nodeName || old.id !== next.id) {
    old.replaceWith(next);
    return;
  }
  if (old.nodeType === Node.TEXT_NODE) {
    old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!THEIRS.has(name) && !next.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of next.attributes) {
    if (!THEIRS.has(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  for (const [name, value] of next.placed ?? []) old.style.setProperty(name, value);
  patchChildren(old, next);
}

/** Set custom properties, which a policy without inline styles allows from here alone. */
export function place(node, properties) {
  node.placed = Object.entries(properties);
  for (const [name, value] of node.placed) node.style.setProperty(name, value);
  return node;
}

export const byId = (id) => document.getElementById(id);
