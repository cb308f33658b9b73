import{j as e,s as o,V as t}from"./index-c228b9ea.js";function a({search:n,...r}){const s=(()=>({...n}));return e.jsx(o,{component:t,search:s,fz:"inherit",...r})}export{a as P};
