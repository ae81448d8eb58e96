import { StrictMode, createElement } from 'react';
import { createRoot } from 'react-dom/client';
import { usePortcullisSession } from 'portcullis-session/react';

const drawn = { left: 0, phase: 0 };
window.drawn = drawn;

function Left() {
  const { idle } = usePortcullisSession(window.session);
  drawn.left += 1;
  return createElement('p', { id: 'left' }, idle === null ? 'unknown' : `${idle} s left`);
}

function Phase() {
  const phase = usePortcullisSession(window.session, (state) => state.phase);
  drawn.phase += 1;
  return createElement('p', { id: 'phase' }, phase);
}

window.draw = () => {
  window.root = createRoot(document.querySelector('#root'));
  window.root.render(createElement(StrictMode, null, createElement(Left), createElement(Phase)));
};
